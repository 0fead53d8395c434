#include "device.h"

#include "failure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* NVIDIA's numbers of device attributes; room for any of AMD's structs of properties */
enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76, NAME_SIZE = 256, PROPERTIES_SIZE = 8192, NON_BLOCKING = 1 };
enum { EXACT = 1000, SAME_MAJOR = 100, PTX = 1, PTX_MAJOR = 8 };

int cdr_device_count(cdr_device *device, int *count)
{
  *count = 0;
  int code = CDR_TRY(&device->driver, device_count, (count));
  if (code == CDR_OK && *count < 1) code = cdr_fail(CDR_DEVICE_MISSING, "the driver finds no GPU on this machine");
  return code;
}

/* --- which GPU it is ------------------------------------------------------------------------------------------- */
static int look_cuda(cdr_device *device)
{
  const cdr_driver *d = &device->driver;
  int code = CDR_TRY(d, device_attribute, (&device->major, CAPABILITY_MAJOR, device->handle));
  if (code == CDR_OK) code = CDR_TRY(d, device_attribute, (&device->minor, CAPABILITY_MINOR, device->handle));
  if (code == CDR_OK) snprintf(device->arch, sizeof device->arch, "sm_%d%d", device->major, device->minor);
  return code;
}

/* The architecture's name is a string in a struct whose layout changed between versions of HIP: it is looked for behind
   the GPU's own name, which the struct begins with. */
static int look_hip(cdr_device *device)
{
  const cdr_driver *d = &device->driver;
  if (!d->device_properties && !d->device_properties_5)
    return cdr_fail(CDR_DRIVER_OLD, "the driver library lacks hipGetDeviceProperties");
  char *room = calloc(1, PROPERTIES_SIZE);
  if (!room) return CDR_NO_MEMORY;
  int code = d->device_properties ? CDR_TRY(d, device_properties, (room, device->number))
                                  : CDR_TRY(d, device_properties_5, (room, device->number));
  for (size_t i = NAME_SIZE; code == CDR_OK && !device->arch[0] && i + sizeof device->arch < PROPERTIES_SIZE; i++) {
    const char *at = room + i;
    size_t size = 3 + strspn(at + 3, "0123456789abcdef");
    if (memcmp(at, "gfx", 3) != 0 || size < 6 || size >= sizeof device->arch || (at[size] && at[size] != ':')) continue;
    memcpy(device->arch, at, size);
  }
  free(room);
  if (code == CDR_OK && !device->arch[0])
    code = cdr_fail(CDR_CODE_MISSING, "the driver does not say which architecture GPU %d (%s) has", device->number,
                    device->name);
  return code;
}

int cdr_device_look(cdr_device *device, int number)
{
  const cdr_driver *d = &device->driver;
  device->number = number;
  device->major = device->minor = 0;
  memset(device->arch, 0, sizeof device->arch);
  memset(device->name, 0, sizeof device->name);
  int code = CDR_TRY(d, device_get, (&device->handle, number));
  if (code == CDR_OK && d->device_name)
    code = CDR_TRY(d, device_name, (device->name, (int)sizeof device->name - 1, device->handle));
  if (code == CDR_OK) code = d->vendor == CDR_CUDA ? look_cuda(device) : look_hip(device);
  return code;
}

int cdr_device_fit(const cdr_device *device, cdr_vendor vendor, const char *arch)
{
  int number, end = 0;
  if (vendor != device->driver.vendor) return 0;
  if (strcmp(arch, device->arch) == 0) return EXACT;
  if (vendor == CDR_HIP) return 0;
  if (strcmp(arch, "ptx") == 0) return device->major >= PTX_MAJOR ? PTX : 0;
  /* code of the same generation runs on its later members */
  if (sscanf(arch, "sm_%4d%n", &number, &end) != 1 || arch[end] || number < 10) return 0;
  return number / 10 == device->major && number % 10 <= device->minor ? SAME_MAJOR + number % 10 : 0;
}

/* --- in use ---------------------------------------------------------------------------------------------------- */
int cdr_device_start(cdr_device *device)
{
  const cdr_driver *d = &device->driver;
  int before, code = CDR_OK;
  if (d->vendor == CDR_CUDA) code = CDR_TRY(d, context_retain, (&device->context, device->handle));
  if (code != CDR_OK) {
    device->context = NULL;
    return code;
  }
  code = cdr_device_enter(device, &before);
  if (code != CDR_OK) return code;
  code = CDR_TRY(d, stream_take, (&device->stream, NON_BLOCKING));
  if (code != CDR_OK) device->stream = NULL;
  int left = cdr_device_leave(device, before);
  return code != CDR_OK ? code : left;
}

void cdr_device_close(cdr_device *device)
{
  const cdr_driver *d = &device->driver;
  int before;
  if (device->stream) { /* given back whatever the driver says */
    int entered = cdr_device_enter(device, &before) == CDR_OK;
    d->stream_free(device->stream);
    if (entered) cdr_device_leave(device, before);
  }
  if (device->context) d->context_release(device->handle);
  device->stream = device->context = NULL;
  cdr_driver_close(&device->driver);
}

int cdr_device_enter(cdr_device *device, int *before)
{
  const cdr_driver *d = &device->driver;
  *before = 0;
  if (d->vendor == CDR_CUDA) return CDR_TRY(d, context_push, (device->context));
  int code = CDR_TRY(d, device_current, (before));
  return code != CDR_OK ? code : CDR_TRY(d, device_set, (device->number));
}

int cdr_device_leave(cdr_device *device, int before)
{
  const cdr_driver *d = &device->driver;
  void *popped;
  if (d->vendor == CDR_CUDA) return CDR_TRY(d, context_pop, (&popped));
  return before == device->number ? CDR_OK : CDR_TRY(d, device_set, (before));
}

static double mebibytes(uint64_t bytes) { return (double)bytes / (1 << 20); }

int cdr_device_take(cdr_device *device, cdr_pointer *memory, uint64_t bytes, const char *what)
{
  const cdr_driver *d = &device->driver;
  cdr_pointer made = 0;
  *memory = 0;
  if (bytes > SIZE_MAX)
    return cdr_fail(CDR_DEVICE_MEMORY, "%s would need more memory than this machine can address", what);
  int result = d->memory_take(&made, (size_t)bytes);
  if (result != 0) {
    size_t left = 0, whole = 0;
    int code = cdr_driver_check(d, CDR_CALL_memory_take, result, what);
    if (code == CDR_OK || (code & 0xff) != CDR_DEVICE_MEMORY ) return code;
    if (!d->memory_info || d->memory_info(&left, &whole) != 0)
      return cdr_fail(CDR_DEVICE_MEMORY, "the GPU %s has too little memory for %s: %.1f MiB were asked for", device->name,
                      what, mebibytes(bytes));
    return cdr_fail(CDR_DEVICE_MEMORY,
                    "the GPU %s has too little memory for %s: %.1f MiB were asked for, %.1f of %.1f MiB are free",
                    device->name, what, mebibytes(bytes), mebibytes(left), mebibytes(whole));
  }
  int code = CDR_TRY(d, clear, (made, 0, (size_t)bytes, device->stream));
  if (code != CDR_OK) d->memory_free(made);
  else *memory = made;
  return code;
}

void cdr_device_give(cdr_device *device, cdr_pointer *memory)
{
  if (*memory) device->driver.memory_free(*memory);
  *memory = 0;
}

int cdr_pinned_take(cdr_device *device, void **memory, uint64_t bytes, const char *what)
{
  void *made = NULL;
  *memory = NULL;
  if (bytes > SIZE_MAX) return CDR_NO_MEMORY;
  int result = device->driver.pinned_take(&made, (size_t)bytes, 0);
  if (result != 0) return cdr_driver_check(&device->driver, CDR_CALL_pinned_take, result, what);
  *memory = made;
  return CDR_OK;
}

void cdr_pinned_give(cdr_device *device, void **memory)
{
  if (*memory) device->driver.pinned_free(*memory);
  *memory = NULL;
}

int cdr_device_wait(cdr_device *device) { return CDR_TRY(&device->driver, stream_wait, (device->stream)); }
