#define _GNU_SOURCE /* RTLD_NODELETE */
#include "driver.h"

#include "failure.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* a driver that has begun is never unloaded: its threads and exit handlers stay */
enum { OUT_OF_MEMORY = 2, NO_DEVICE = 100, LOADING = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE };

typedef struct {
  const char *names[CDR_VENDORS];
  int needed;
  size_t place;
} symbol;

static const symbol symbols[] = {
#define CDR_SYMBOL(name, cuda, hip, needed, arguments) {{cuda, hip}, needed, offsetof(cdr_driver, name)},
  CDR_DRIVER_CALLS(CDR_SYMBOL)
#undef CDR_SYMBOL
    {{"cuGetErrorName", NULL}, 1, offsetof(cdr_driver, error_name_to)},
  {{"cuGetErrorString", NULL}, 1, offsetof(cdr_driver, error_text_to)},
  {{NULL, "hipGetErrorName"}, 1, offsetof(cdr_driver, error_name)},
  {{NULL, "hipGetErrorString"}, 1, offsetof(cdr_driver, error_text)},
};
enum { SYMBOLS = sizeof symbols / sizeof *symbols };

static const char *const libraries[CDR_VENDORS][4] = {
  {"libcuda.so.1", "libcuda.so", NULL, NULL},
  {"libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6", NULL},
};
static const char *const remedies[CDR_VENDORS] = {
  "install NVIDIA's driver",
  "install AMD's HIP runtime (libamdhip64)",
};

static int load(cdr_driver *driver)
{
  const char *named = getenv("CDR_DRIVER"), *said = NULL;
  const char *const *names = libraries[driver->vendor];
  if (named && *named) {
    driver->library = dlopen(named, LOADING);
    if (driver->library) return CDR_OK;
    said = dlerror();
    return cdr_fail(CDR_DRIVER_MISSING, "the driver library that CDR_DRIVER names cannot be loaded: %s",
                    said ? said : named);
  }
  for (; *names && !driver->library; names++) driver->library = dlopen(*names, LOADING);
  if (driver->library) return CDR_OK;
  said = dlerror();
  return cdr_fail(CDR_DRIVER_MISSING, "no driver library %s on this machine: %s (%s)", libraries[driver->vendor][0],
                  remedies[driver->vendor], said ? said : "not found");
}

static int find(cdr_driver *driver)
{
  for (int i = 0; i < SYMBOLS; i++) {
    const char *name = symbols[i].names[driver->vendor];
    void *at = name ? dlsym(driver->library, name) : NULL;
    if (name && symbols[i].needed && !at)
      return cdr_fail(CDR_DRIVER_OLD, "the driver library lacks %s: it is too old, or another library; %s", name,
                      remedies[driver->vendor]);
    memcpy((char *)driver + symbols[i].place, &at, sizeof at); /* ISO C converts no void * to a function */
  }
  return CDR_OK;
}

int cdr_driver_open(cdr_driver *driver, cdr_vendor vendor)
{
  memset(driver, 0, sizeof *driver);
  driver->vendor = vendor;
  int code = load(driver);
  if (code == CDR_OK) code = find(driver);
  if (code == CDR_OK) code = CDR_TRY(driver, init, (0));
  if (code != CDR_OK) cdr_driver_close(driver);
  return code;
}

void cdr_driver_close(cdr_driver *driver)
{
  if (driver->library) dlclose(driver->library);
  memset(driver, 0, sizeof *driver);
}

int cdr_driver_check(const cdr_driver *driver, cdr_driver_call call, int result, const char *about)
{
  const char *name = NULL, *text = NULL;
  if (result == 0) return CDR_OK;
  if (driver->vendor == CDR_CUDA) {
    if (driver->error_name_to(result, &name) != 0) name = NULL;
    if (driver->error_text_to(result, &text) != 0) text = NULL;
  } else {
    name = driver->error_name(result);
    text = driver->error_text(result);
  }
  int kind = result == OUT_OF_MEMORY ? CDR_DEVICE_MEMORY : result == NO_DEVICE ? CDR_DEVICE_MISSING : CDR_DRIVER_CALL;
  return cdr_fail(kind, "%s failed%s%s: %s (%d: %s)", symbols[call].names[driver->vendor], about ? " for " : "",
                  about ? about : "", text ? text : "no text", result,
                  name ? name : "an error the driver has no name for");
}

int cdr_driver_has_graphs(const cdr_driver *driver)
{
  return driver->capture_begin && driver->capture_end && driver->graph_make && driver->graph_launch &&
         driver->graph_made_free && driver->graph_free;
}
