/* One GPU: which it is, its memory, and the stream that everything runs on. */
#ifndef CDR_DEVICE_H
#define CDR_DEVICE_H

#include "driver.h"

typedef struct {
  cdr_driver driver;
  int number, handle;       /* among the machine's GPUs, and as the driver calls it */
  int major, minor;         /* of NVIDIA's compute capability */
  char arch[64], name[256]; /* sm_90 or gfx1100; as it is sold */
  void *context, *stream;
} cdr_device;

/* How many GPUs there are; at least one, or a failure. */
int cdr_device_count(cdr_device *device, int *count);

/* Finds out about GPU `number`. */
int cdr_device_look(cdr_device *device, int number);

/* How well code for `arch` fits the GPU that was looked at: 0 not at all. */
int cdr_device_fit(const cdr_device *device, cdr_vendor vendor, const char *arch);

/* Makes the GPU ready; undoes that and closes the driver, also after half of it. */
int cdr_device_start(cdr_device *device);
void cdr_device_close(cdr_device *device);

/* Makes the GPU this thread's current one, and what was current before current again. */
int cdr_device_enter(cdr_device *device, int *before);
int cdr_device_leave(cdr_device *device, int before);

/* Memory, all zero once the stream has come that far.  A failure says `what` it was for and how much there is. */
int cdr_device_take(cdr_device *device, cdr_pointer *memory, uint64_t bytes, const char *what);
void cdr_device_give(cdr_device *device, cdr_pointer *memory);
int cdr_pinned_take(cdr_device *device, void **memory, uint64_t bytes, const char *what);
void cdr_pinned_give(cdr_device *device, void **memory);

/* Waits until the stream is empty. */
int cdr_device_wait(cdr_device *device);

#endif
