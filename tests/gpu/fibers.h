/* CUDA C on a CPU, for tests: the words of the language, and the threads of a block as fibers.

   Blocks run one after the other.  The threads of a block run until all wait at a __syncthreads() or are done; a kernel
   without one runs thread after thread.  It says nothing of machine code, only of the source. */
#pragma once
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <math.h>
#include <sys/mman.h>
#include <type_traits>
#include <ucontext.h>
#include <utility>

#undef INFINITY
#undef NAN
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static
#define __restrict__ __restrict

namespace fibers {
struct Three {
  unsigned x, y, z;
};
}
static fibers::Three blockIdx, threadIdx, blockDim, gridDim;

/* --- numbers ---------------------------------------------------------------------------------------------------- */
typedef _Float16 half;
typedef _Float16 __half;
#define VECTORS(type, name)                                                                                           \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                                             \
  struct name##3 { type x, y, z; };                                                                                    \
  struct alignas(4 * sizeof(type) > 16 ? 16 : 4 * sizeof(type)) name##4 { type x, y, z, w; };                          \
  static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                              \
  static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                   \
  static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
VECTORS(float, float)
VECTORS(int, int)
VECTORS(unsigned, uint)
VECTORS(short, short)
VECTORS(unsigned short, ushort)
VECTORS(signed char, char)
VECTORS(unsigned char, uchar)
VECTORS(long long, longlong)
struct alignas(4) half2 { half x, y; };
static inline half2 make_half2(half x, half y) { return {x, y}; }

static inline float __int_as_float(unsigned bits)
{
  float found;
  memcpy(&found, &bits, 4);
  return found;
}
static inline half hexp2(half x) { return (half)exp2((float)x); }
static inline half hlog2(half x) { return (half)log2((float)x); }
static inline half hsin(half x) { return (half)sin((float)x); }
static inline half hsqrt(half x) { return (half)sqrt((float)x); }
static inline half hrcp(half x) { return (half)(1.0f / (float)x); }
static inline half htrunc(half x) { return (half)trunc((float)x); }

/* --- threads ---------------------------------------------------------------------------------------------------- */
namespace fibers {
enum { MOST = 1024, STACK = 1 << 18 };
struct Fiber {
  ucontext_t first;
  jmp_buf at;
  bool begun, done;
};
static Fiber threads[MOST];
static jmp_buf scheduler;
static char *stacks;
static unsigned current, waiting;
static void (*body)(void *);
static void *body_argument;

static Three place(unsigned thread)
{
  return {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y)};
}

static void begin()
{
  body(body_argument);
  threads[current].done = true;
  _longjmp(scheduler, 1);
}

static void wait()
{
  waiting++;
  if (!_setjmp(threads[current].at)) _longjmp(scheduler, 1);
}

static void go(unsigned thread)
{
  current = thread;
  threadIdx = place(thread);
  if (_setjmp(scheduler)) return;
  if (threads[thread].begun) _longjmp(threads[thread].at, 1);
  threads[thread].begun = true;
  setcontext(&threads[thread].first);
}

static void together(unsigned count)
{
  if (!stacks) stacks = (char *)mmap(nullptr, (size_t)MOST * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  for (unsigned i = 0; i < count; i++) {
    getcontext(&threads[i].first);
    threads[i].first.uc_stack.ss_sp = stacks + (size_t)i * STACK;
    threads[i].first.uc_stack.ss_size = STACK;
    threads[i].first.uc_link = nullptr;
    makecontext(&threads[i].first, begin, 0);
    threads[i].begun = threads[i].done = false;
  }
  static unsigned left, i;
  for (left = count; left > 0;) {
    waiting = 0;
    for (i = 0; i < count; i++)
      if (!threads[i].done) go(i);
    unsigned still = 0;
    for (i = 0; i < count; i++) still += !threads[i].done;
    if (still && waiting != left) {
      fprintf(stderr, "fibers: %u of %u threads wait at a barrier\n", waiting, left);
      abort();
    }
    left = still;
  }
}

static void blocks(void (*work)(void *), void *argument, const unsigned *g, const unsigned *b, bool barriers)
{
  gridDim = {g[0], g[1], g[2]};
  blockDim = {b[0], b[1], b[2]};
  body = work;
  body_argument = argument;
  unsigned count = b[0] * b[1] * b[2];
  for (unsigned z = 0; z < g[2]; z++)
    for (unsigned y = 0; y < g[1]; y++)
      for (unsigned x = 0; x < g[0]; x++) {
        blockIdx = {x, y, z};
        if (barriers) together(count);
        for (unsigned i = 0; i < count && !barriers; i++) {
          threadIdx = place(i);
          work(argument);
        }
      }
}

template <class... A, size_t... I> static void call(void (*kernel)(A...), void **values, std::index_sequence<I...>)
{
  kernel(*(std::remove_reference_t<A> *)values[I]...);
}

template <class... A> static int count(void (*)(A...)) { return sizeof...(A); }

template <class... A> static void launch(void (*kernel)(A...), void **values, const unsigned *g, const unsigned *b, bool barriers)
{
  struct Work {
    void (*kernel)(A...);
    void **values;
  } work = {kernel, values};
  blocks([](void *p) { call(((Work *)p)->kernel, ((Work *)p)->values, std::index_sequence_for<A...>()); }, &work, g, b, barriers);
}
}
static inline void __syncthreads() { fibers::wait(); }

/* What the mock driver looks for in a module. */
#define MOCK_KERNEL(name, barriers)                                                                                    \
  extern "C" {                                                                                                         \
  int arguments_##name = fibers::count(name);                                                                          \
  void launch_##name(void **values, const unsigned *g, const unsigned *b) { fibers::launch(name, values, g, b, barriers); } \
  }
