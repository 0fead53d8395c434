/* A driver library without a GPU, for tests: the calls of libcuda and of libamdhip64 that the runner makes.

   Device memory is the machine's, at addresses that nobody can read by mistake.  Copies and launches wait in a queue until
   somebody waits for them, as they may on a GPU: memory that is reused too early gives wrong results here too.  Every
   range is checked against what is allocated.  Modules are a shared library that a test built of the kernels' source
   (environment: MOCK_CODE), whose kernels do nothing under MOCK_IDLE.  Any call can be made to fail. */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

constexpr uint64_t TAG = uint64_t(1) << 60;
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_DEVICE = 100, BAD_DEVICE = 101, BAD_IMAGE = 200, NO_CONTEXT = 201, NO_BINARY = 209, NOT_FOUND = 500,
       ILLEGAL = 700, FAILED = 719, NOT_SUPPORTED = 801, CAPTURING = 900 };

struct Block {
  uint64_t size;
  bool pinned;
};
struct Graph {
  std::vector<std::function<void()>> work;
};
struct Kernel {
  std::string name;
  int count;
  void (*run)(void **, const unsigned *, const unsigned *);
};

std::map<uint64_t, Block> blocks; /* host addresses */
std::vector<std::function<void()>> queue, recorded;
std::set<void *> streams, graphs, made;
struct Module {
  void *library; /* the same for every module of one file */
  std::vector<Kernel *> kernels;
};
std::map<void *, Module> modules;
std::map<std::string, int> counts;
std::string &faults = *new std::string; /* also at the program's end */
uint64_t used;
int contexts, depth, calls, fail_at, fail_with = FAILED, sticky, recording, graph_support = 1, waits, launches, device;

const char *setting(const char *name, const char *otherwise)
{
  const char *value = getenv(name);
  return value && *value ? value : otherwise;
}

void fault(const std::string &text) { faults += text + "\n"; }

/* Whether this call is to fail.  What gives something back does it all the same. */
bool fails(const char *name)
{
  counts[name]++;
  calls++;
  if (fail_at == 0) {
    const char *given = getenv("MOCK_FAIL");
    fail_at = given ? atoi(given) : -1;
  }
  return fail_at > 0 && (calls == fail_at || (sticky && calls > fail_at));
}

bool inside(uint64_t host, uint64_t size, bool pinned, const char *what)
{
  auto at = blocks.upper_bound(host);
  if (at != blocks.begin()) {
    --at;
    if (at->second.pinned == pinned && host + size <= at->first + at->second.size) return true;
  }
  fault(std::string(what) + ": a range outside of what is allocated");
  return false;
}

bool on_device(uint64_t pointer, uint64_t size, const char *what)
{
  if (pointer < TAG) return fault(std::string(what) + ": no device pointer"), false;
  return inside(pointer - TAG, size, false, what);
}

bool is_pinned(const void *host)
{
  auto at = blocks.upper_bound((uint64_t)host);
  if (at == blocks.begin()) return false;
  --at;
  return at->second.pinned && (uint64_t)host < at->first + at->second.size;
}

void drain()
{
  std::vector<std::function<void()>> work;
  work.swap(queue);
  for (auto &one : work) one();
}

int put(std::function<void()> work)
{
  (recording ? recorded : queue).push_back(std::move(work));
  return OK;
}

int take(uint64_t *at, uint64_t size, bool pinned)
{
  uint64_t room = strtoull(setting("MOCK_MEMORY", "1073741824"), nullptr, 10);
  if (size == 0) return INVALID;
  if (!pinned && (size > room || used + size > room)) return NO_MEMORY;
  void *memory = nullptr;
  if (posix_memalign(&memory, 256, size) != 0) return NO_MEMORY;
  memset(memory, 0xA5, size);
  blocks[(uint64_t)memory] = {size, pinned};
  if (!pinned) used += size;
  *at = (uint64_t)memory + (pinned ? 0 : TAG);
  return OK;
}

int give(uint64_t host, bool pinned)
{
  drain();
  auto at = blocks.find(host);
  if (at == blocks.end() || at->second.pinned != pinned) return fault("memory given back that was not taken"), INVALID;
  if (!pinned) used -= at->second.size;
  free((void *)host);
  blocks.erase(at);
  return OK;
}

int upload(uint64_t to, const void *from, size_t size)
{
  if (!on_device(to, size, "upload")) return ILLEGAL;
  if (is_pinned(from)) {
    if (!inside((uint64_t)from, size, true, "upload")) return INVALID;
    return put([=] { memcpy((void *)(to - TAG), from, size); });
  }
  if (recording) return CAPTURING;
  std::string kept((const char *)from, size);
  return put([=] { memcpy((void *)(to - TAG), kept.data(), kept.size()); });
}

int download(void *to, uint64_t from, size_t size)
{
  if (!on_device(from, size, "download")) return ILLEGAL;
  if (is_pinned(to) && !inside((uint64_t)to, size, true, "download")) return INVALID;
  if (!is_pinned(to) && recording) return CAPTURING;
  put([=] { memcpy(to, (void *)(from - TAG), size); });
  if (!is_pinned(to)) drain();
  return OK;
}

int copy(uint64_t to, uint64_t from, size_t size)
{
  if (!on_device(to, size, "copy") || !on_device(from, size, "copy")) return ILLEGAL;
  if (to < from + size && from < to + size) fault("copy: the ranges overlap");
  return put([=] { memmove((void *)(to - TAG), (void *)(from - TAG), size); });
}

int clear(uint64_t to, unsigned char value, size_t size)
{
  if (!on_device(to, size, "clear")) return ILLEGAL;
  return put([=] { memset((void *)(to - TAG), value, size); });
}

int load(void **module, const void *image)
{
  const char *path = getenv("MOCK_CODE"), *refuse = getenv("MOCK_REFUSE_CODE");
  if (refuse) return atoi(refuse);
  if (!image || strncmp((const char *)image, "not code", 8) == 0) return BAD_IMAGE;
  if (!path) return BAD_IMAGE;
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return fault(dlerror()), BAD_IMAGE;
  static size_t serial;
  *module = (void *)++serial;
  modules[*module].library = library;
  return OK;
}

int unload(void *module)
{
  if (!modules.count(module)) return fault("a module unloaded that is not there"), INVALID;
  drain();
  for (Kernel *k : modules[module].kernels) delete k;
  dlclose(modules[module].library);
  modules.erase(module);
  return OK;
}

int function(void **found, void *module, const char *name)
{
  if (!modules.count(module)) return INVALID;
  std::string text = name;
  void *library = modules[module].library;
  auto run = (void (*)(void **, const unsigned *, const unsigned *))dlsym(library, ("launch_" + text).c_str());
  auto count = (int *)dlsym(library, ("arguments_" + text).c_str());
  if (!run || !count) return NOT_FOUND;
  modules[module].kernels.push_back(new Kernel{text, *count, run});
  *found = modules[module].kernels.back();
  return OK;
}

int launch(void *f, const unsigned *g, const unsigned *b, void **params)
{
  auto kernel = (Kernel *)f;
  std::vector<uint64_t> values;
  if ((uint64_t)b[0] * b[1] * b[2] > 1024 || b[0] < 1 || g[0] < 1) return INVALID;
  for (int i = 0; i < kernel->count; i++) {
    uint64_t value = *(uint64_t *)params[i];
    if (!on_device(value, 1, kernel->name.c_str())) return ILLEGAL;
    values.push_back(value - TAG);
  }
  std::vector<unsigned> grid(g, g + 3), block(b, b + 3);
  return put([=] {
    std::vector<uint64_t> mine = values;
    std::vector<void *> pointers;
    for (auto &value : mine) pointers.push_back(&value);
    launches++;
    if (!getenv("MOCK_IDLE")) kernel->run(pointers.data(), grid.data(), block.data());
  });
}

int begin()
{
  if (!graph_support) return NOT_SUPPORTED;
  if (recording) return CAPTURING;
  recording = 1;
  recorded.clear();
  return OK;
}

int end(void **graph)
{
  if (!recording) return INVALID;
  recording = 0;
  auto made_now = new Graph{recorded};
  recorded.clear();
  graphs.insert(made_now);
  *graph = made_now;
  return OK;
}

int instantiate(void **out, void *graph)
{
  if (!graphs.count(graph)) return INVALID;
  auto exec = new Graph{((Graph *)graph)->work};
  made.insert(exec);
  *out = exec;
  return OK;
}

int replay(void *graph)
{
  if (!made.count(graph)) return INVALID;
  for (auto &one : ((Graph *)graph)->work) put(one);
  return OK;
}

int drop(std::set<void *> &from, void *graph)
{
  if (!from.erase(graph)) return fault("a graph given back that is not there"), INVALID;
  drain();
  delete (Graph *)graph;
  return OK;
}

int stream(void **out)
{
  *out = malloc(1);
  streams.insert(*out);
  return OK;
}

int unstream(void *which)
{
  if (!streams.erase(which)) return fault("a stream given back that is not there"), INVALID;
  drain();
  free(which);
  return OK;
}

int wait()
{
  if (recording) return CAPTURING;
  waits++;
  drain();
  return OK;
}

int devices() { return atoi(setting("MOCK_DEVICES", "1")); }

/* one architecture a device, with commas; the last one is of all that follow */
std::string arch(int number, const char *otherwise)
{
  std::string names = setting("MOCK_ARCH", otherwise);
  for (; number > 0 && names.find(',') != std::string::npos; number--) names = names.substr(names.find(',') + 1);
  return names.substr(0, names.find(','));
}

const char *error_name(int code)
{
  switch (code) {
  case OK: return "MOCK_SUCCESS";
  case NO_MEMORY: return "MOCK_OUT_OF_MEMORY";
  case NO_DEVICE: return "MOCK_NO_DEVICE";
  case ILLEGAL: return "MOCK_ILLEGAL_ADDRESS";
  case FAILED: return "MOCK_LAUNCH_FAILED";
  default: return "MOCK_OTHER";
  }
}

int usable() { return depth > 0 ? OK : NO_CONTEXT; }

} // namespace

/* Defines a call under its names; `work` runs unless it is to fail. */
#define CALL(name, arguments, work)                                                                                   \
  extern "C" int name arguments                                                                                        \
  {                                                                                                                    \
    if (fails(#name)) return fail_with;                                                                                \
    return work;                                                                                                       \
  }
#define GIVE(name, arguments, work)                                                                                    \
  extern "C" int name arguments                                                                                        \
  {                                                                                                                    \
    bool failed = fails(#name);                                                                                        \
    int code = work;                                                                                                   \
    return failed ? fail_with : code;                                                                                  \
  }
#define BOTH(cuda, hip, arguments, work)                                                                               \
  CALL(cuda, arguments, usable() != OK ? usable() : (work))                                                            \
  CALL(hip, arguments, work)
#define GIVE_BOTH(cuda, hip, arguments, work) GIVE(cuda, arguments, work) GIVE(hip, arguments, work)

CALL(cuInit, (unsigned), devices() < 0 ? NO_DEVICE : OK)
CALL(hipInit, (unsigned), devices() < 0 ? NO_DEVICE : OK)
CALL(cuDriverGetVersion, (int *v), (*v = atoi(setting("MOCK_VERSION", "12040")), OK))
CALL(hipDriverGetVersion, (int *v), (*v = 60000000, OK))
CALL(cuDeviceGetCount, (int *n), (*n = devices(), OK))
CALL(hipGetDeviceCount, (int *n), (*n = devices(), OK))
CALL(cuDeviceGet, (int *d, int n), (*d = n, n < devices() ? OK : BAD_DEVICE))
CALL(hipDeviceGet, (int *d, int n), (*d = n, n < devices() ? OK : BAD_DEVICE))
CALL(cuDeviceGetName, (char *name, int size, int n), (snprintf(name, size, "Mock GPU %d", n), OK))
CALL(hipDeviceGetName, (char *name, int size, int n), (snprintf(name, size, "Mock GPU %d", n), OK))
CALL(cuDeviceGetAttribute, (int *v, int which, int n),
     (*v = which == 75 ? atoi(arch(n, "sm_90").c_str() + 3) / 10 : atoi(arch(n, "sm_90").c_str() + 3) % 10, OK))
CALL(hipGetDevicePropertiesR0600, (void *p, int n),
     (memset(p, 0, 1472), strcpy((char *)p, "a gfx9 in the name"), strcpy((char *)p + 1160, (arch(n, "gfx1100") + ":xnack-").c_str()), OK))
CALL(cuDevicePrimaryCtxRetain, (void **c, int), (*c = (void *)1, contexts++, OK))
GIVE(cuDevicePrimaryCtxRelease_v2, (int), (contexts--, drain(), OK))
CALL(cuCtxPushCurrent_v2, (void *), (depth++, OK))
GIVE(cuCtxPopCurrent_v2, (void **), (depth--, OK))
CALL(hipGetDevice, (int *d), (*d = device, OK))
CALL(hipSetDevice, (int d), (device = d, OK))
BOTH(cuMemGetInfo_v2, hipMemGetInfo, (size_t *left, size_t *all), (*all = strtoull(setting("MOCK_MEMORY", "1073741824"), nullptr, 10), *left = *all - used, OK))
BOTH(cuMemAlloc_v2, hipMalloc, (uint64_t *at, size_t size), take(at, size, false))
GIVE_BOTH(cuMemFree_v2, hipFree, (uint64_t at), give(at - TAG, false))
BOTH(cuMemHostAlloc, hipHostMalloc, (void **at, size_t size, unsigned), take((uint64_t *)at, size, true))
GIVE_BOTH(cuMemFreeHost, hipHostFree, (void *at), give((uint64_t)at, true))
BOTH(cuMemcpyHtoDAsync_v2, hipMemcpyHtoDAsync, (uint64_t to, const void *from, size_t size, void *), upload(to, from, size))
BOTH(cuMemcpyDtoHAsync_v2, hipMemcpyDtoHAsync, (void *to, uint64_t from, size_t size, void *), download(to, from, size))
BOTH(cuMemcpyDtoDAsync_v2, hipMemcpyDtoDAsync, (uint64_t to, uint64_t from, size_t size, void *), copy(to, from, size))
BOTH(cuMemsetD8Async, hipMemsetD8Async, (uint64_t to, unsigned char value, size_t size, void *), clear(to, value, size))
BOTH(cuStreamCreate, hipStreamCreateWithFlags, (void **s, unsigned), stream(s))
GIVE_BOTH(cuStreamDestroy_v2, hipStreamDestroy, (void *s), unstream(s))
BOTH(cuStreamSynchronize, hipStreamSynchronize, (void *), wait())
BOTH(cuModuleLoadData, hipModuleLoadData, (void **m, const void *image), load(m, image))
GIVE_BOTH(cuModuleUnload, hipModuleUnload, (void *m), unload(m))
BOTH(cuModuleGetFunction, hipModuleGetFunction, (void **f, void *m, const char *name), function(f, m, name))

static int launch_all(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, void **params)
{
  const unsigned g[] = {gx, gy, gz}, b[] = {bx, by, bz};
  return launch(f, g, b, params);
}
BOTH(cuLaunchKernel, hipModuleLaunchKernel,
     (void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned, void *, void **params, void **),
     launch_all(f, gx, gy, gz, bx, by, bz, params))
BOTH(cuStreamBeginCapture_v2, hipStreamBeginCapture, (void *, int), begin())
/* a capture that cannot be ended is over all the same */
extern "C" int cuStreamEndCapture(void *, void **graph)
{
  if (!fails("cuStreamEndCapture")) return end(graph);
  recording = 0;
  recorded.clear();
  return fail_with;
}
extern "C" int hipStreamEndCapture(void *, void **graph)
{
  if (!fails("hipStreamEndCapture")) return end(graph);
  recording = 0;
  recorded.clear();
  return fail_with;
}
BOTH(cuGraphInstantiateWithFlags, hipGraphInstantiateWithFlags, (void **e, void *g, unsigned long long), instantiate(e, g))
BOTH(cuGraphLaunch, hipGraphLaunch, (void *g, void *), replay(g))
GIVE_BOTH(cuGraphExecDestroy, hipGraphExecDestroy, (void *g), drop(made, g))
GIVE_BOTH(cuGraphDestroy, hipGraphDestroy, (void *g), drop(graphs, g))

extern "C" int cuGetErrorName(int code, const char **text) { return *text = error_name(code), OK; }
extern "C" int cuGetErrorString(int code, const char **text) { return *text = code == FAILED ? "the mock was told to fail" : "the mock says so", OK; }
extern "C" const char *hipGetErrorName(int code) { return error_name(code); }
extern "C" const char *hipGetErrorString(int code) { return code == FAILED ? "the mock was told to fail" : "the mock says so"; }

/* --- for tests ----------------------------------------------------------------------------------------------------- */
extern "C" {
/* The n-th call from now on fails (0: none), with all after it when `all`. */
void mock_fail(int n, int code, int all)
{
  fail_at = n > 0 ? calls + n : -1;
  fail_with = code;
  sticky = all;
}
int mock_calls() { return calls; }
int mock_count(const char *name) { return counts[name]; }
int mock_waits() { return waits; }
int mock_launches() { return launches; }
void mock_graphs(int have) { graph_support = have; }
/* How many things are taken and not given back. */
int mock_live() { return (int)(blocks.size() + streams.size() + graphs.size() + made.size() + modules.size()) + contexts + depth; }
/* What was done wrong since the last time. */
const char *mock_faults()
{
  static std::string said;
  said = faults;
  faults.clear();
  return said.c_str();
}
}

/* A program's end, told to a file: live things, calls, faults. */
__attribute__((destructor)) static void report()
{
  const char *path = getenv("MOCK_REPORT");
  FILE *f = path ? fopen(path, "w") : nullptr;
  if (!f) return;
  fprintf(f, "%d %d %s", mock_live(), calls, faults.c_str());
  fclose(f);
}
