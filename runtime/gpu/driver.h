/* The driver of NVIDIA or AMD, loaded when the program runs: nothing of either is needed to build it.

   Both have the same calls under other names; what only one has is NULL for the other. */
#ifndef CDR_DRIVER_H
#define CDR_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef enum { CDR_CUDA, CDR_HIP, CDR_VENDORS } cdr_vendor;
typedef uint64_t cdr_pointer; /* of device memory */

/* name here, of NVIDIA, of AMD, whether it must be there, arguments */
#define CDR_DRIVER_CALLS(X)                                                                                           \
  X(init, "cuInit", "hipInit", 1, (unsigned))                                                                          \
  X(version, "cuDriverGetVersion", "hipDriverGetVersion", 0, (int *))                                                  \
  X(device_count, "cuDeviceGetCount", "hipGetDeviceCount", 1, (int *))                                                 \
  X(device_get, "cuDeviceGet", "hipDeviceGet", 1, (int *, int))                                                        \
  X(device_name, "cuDeviceGetName", "hipDeviceGetName", 0, (char *, int, int))                                         \
  X(device_attribute, "cuDeviceGetAttribute", NULL, 1, (int *, int, int))                                              \
  X(device_properties, NULL, "hipGetDevicePropertiesR0600", 0, (void *, int))                                          \
  X(device_properties_5, NULL, "hipGetDeviceProperties", 0, (void *, int))                                             \
  X(context_retain, "cuDevicePrimaryCtxRetain", NULL, 1, (void **, int))                                               \
  X(context_release, "cuDevicePrimaryCtxRelease_v2", NULL, 1, (int))                                                   \
  X(context_push, "cuCtxPushCurrent_v2", NULL, 1, (void *))                                                            \
  X(context_pop, "cuCtxPopCurrent_v2", NULL, 1, (void **))                                                             \
  X(device_current, NULL, "hipGetDevice", 1, (int *))                                                                  \
  X(device_set, NULL, "hipSetDevice", 1, (int))                                                                        \
  X(memory_info, "cuMemGetInfo_v2", "hipMemGetInfo", 0, (size_t *, size_t *))                                          \
  X(memory_take, "cuMemAlloc_v2", "hipMalloc", 1, (cdr_pointer *, size_t))                                             \
  X(memory_free, "cuMemFree_v2", "hipFree", 1, (cdr_pointer))                                                          \
  X(pinned_take, "cuMemHostAlloc", "hipHostMalloc", 1, (void **, size_t, unsigned))                                    \
  X(pinned_free, "cuMemFreeHost", "hipHostFree", 1, (void *))                                                          \
  X(upload, "cuMemcpyHtoDAsync_v2", "hipMemcpyHtoDAsync", 1, (cdr_pointer, const void *, size_t, void *))              \
  X(download, "cuMemcpyDtoHAsync_v2", "hipMemcpyDtoHAsync", 1, (void *, cdr_pointer, size_t, void *))                  \
  X(copy, "cuMemcpyDtoDAsync_v2", "hipMemcpyDtoDAsync", 1, (cdr_pointer, cdr_pointer, size_t, void *))                 \
  X(clear, "cuMemsetD8Async", "hipMemsetD8Async", 1, (cdr_pointer, unsigned char, size_t, void *))                     \
  X(stream_take, "cuStreamCreate", "hipStreamCreateWithFlags", 1, (void **, unsigned))                                 \
  X(stream_free, "cuStreamDestroy_v2", "hipStreamDestroy", 1, (void *))                                                \
  X(stream_wait, "cuStreamSynchronize", "hipStreamSynchronize", 1, (void *))                                           \
  X(module_load, "cuModuleLoadData", "hipModuleLoadData", 1, (void **, const void *))                                  \
  X(module_free, "cuModuleUnload", "hipModuleUnload", 1, (void *))                                                     \
  X(module_function, "cuModuleGetFunction", "hipModuleGetFunction", 1, (void **, void *, const char *))                \
  X(launch, "cuLaunchKernel", "hipModuleLaunchKernel", 1,                                                              \
    (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **))          \
  X(capture_begin, "cuStreamBeginCapture_v2", "hipStreamBeginCapture", 0, (void *, int))                               \
  X(capture_end, "cuStreamEndCapture", "hipStreamEndCapture", 0, (void *, void **))                                    \
  X(graph_make, "cuGraphInstantiateWithFlags", "hipGraphInstantiateWithFlags", 0,                                      \
    (void **, void *, unsigned long long))                                                                             \
  X(graph_launch, "cuGraphLaunch", "hipGraphLaunch", 0, (void *, void *))                                              \
  X(graph_made_free, "cuGraphExecDestroy", "hipGraphExecDestroy", 0, (void *))                                         \
  X(graph_free, "cuGraphDestroy", "hipGraphDestroy", 0, (void *))

typedef enum {
#define CDR_NUMBER(name, cuda, hip, needed, arguments) CDR_CALL_##name,
  CDR_DRIVER_CALLS(CDR_NUMBER)
#undef CDR_NUMBER
    CDR_CALL_COUNT
} cdr_driver_call;

typedef struct {
  void *library;
  cdr_vendor vendor;
  int (*error_name_to)(int, const char **); /* NVIDIA's, AMD's */
  int (*error_text_to)(int, const char **);
  const char *(*error_name)(int);
  const char *(*error_text)(int);
#define CDR_MEMBER(name, cuda, hip, needed, arguments) int(*name) arguments;
  CDR_DRIVER_CALLS(CDR_MEMBER)
#undef CDR_MEMBER
} cdr_driver;

/* Loads the driver library of `vendor`, or the one that the environment's CDR_DRIVER names, and starts it. */
int cdr_driver_open(cdr_driver *driver, cdr_vendor vendor);
void cdr_driver_close(cdr_driver *driver);

/* 0, or the failure of a call: its name, the driver's own name and text of the error, and `about` unless that is
   NULL. */
int cdr_driver_check(const cdr_driver *driver, cdr_driver_call call, int result, const char *about);

/* Whether the driver has every call that graphs need. */
int cdr_driver_has_graphs(const cdr_driver *driver);

#define CDR_TRY(driver, name, arguments) cdr_driver_check(driver, CDR_CALL_##name, (driver)->name arguments, NULL)

#endif
