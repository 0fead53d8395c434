#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* for sched_getaffinity */
#endif
#include "workers.h"

#include "errors.h"

#include <stdint.h>
#include <stdlib.h>

#if defined(__GNUC__) && (defined(__unix__) || defined(__APPLE__)) && !defined(CDR_NO_THREADS)
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

enum { SPIN_NS = 50000, CACHE_LINE = 128 };

/* A thread's share of the work: the number of the job, the end of the share, and its next item.  One word, so that an item
   is taken of the job that it was seen in, or not at all. */
typedef struct {
  uint64_t word;
  char alone[CACHE_LINE - sizeof(uint64_t)];
} cdr_part;

struct cdr_workers {
  cdr_part part[CDR_MOST_THREADS];
  uint32_t job_number;
  char alone[CACHE_LINE];
  int64_t left; /* items that are not made yet */
  char apart[CACHE_LINE];
  cdr_work *work;
  const void *job;
  int count, taken, sleeping, awaited, ending;
  pid_t process;
  pthread_mutex_t lock;
  pthread_cond_t begun, made;
  pthread_t thread[CDR_MOST_THREADS];
};

typedef struct {
  cdr_workers *workers;
  int number;
} cdr_place;

static int64_t nanoseconds(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* The next item of a share, or -1. */
static ptrdiff_t next_item(cdr_part *part)
{
  uint64_t word = __atomic_load_n(&part->word, __ATOMIC_ACQUIRE);
  for (;;) {
    const uint64_t next = word & 0xffff, end = word >> 16 & 0xffff;
    if (next >= end) return -1;
    if (__atomic_compare_exchange_n(&part->word, &word, word + 1, 1, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
      return (ptrdiff_t)next;
  }
}

/* Makes what is left of a thread's own share, and then of the others'. */
static void make_items(cdr_workers *w, int number)
{
  int64_t made = 0;
  for (int i = 0; i < w->count; i++) {
    cdr_part *part = &w->part[(number + i) % w->count];
    for (ptrdiff_t item; (item = next_item(part)) >= 0; made++) w->work(w->job, item, item + 1);
  }
  if (!made || __atomic_sub_fetch(&w->left, made, __ATOMIC_SEQ_CST) != 0) return;
  if (__atomic_load_n(&w->awaited, __ATOMIC_SEQ_CST)) {
    pthread_mutex_lock(&w->lock);
    pthread_cond_signal(&w->made);
    pthread_mutex_unlock(&w->lock);
  }
}

/* Looks for something for a while. */
#define CDR_SPIN_UNTIL(condition)                                                             \
  for (int64_t until = 0, round = 0; !(condition); round++) {                                 \
    relax();                                                                                  \
    if (round % 32 == 31) {                                                                   \
      const int64_t t = nanoseconds();                                                                \
      if (!until) until = t + SPIN_NS;                                                        \
      else if (t > until) break;                                                              \
    }                                                                                         \
  }

static void *look_for_work(void *given)
{
  cdr_place *place = given;
  cdr_workers *w = place->workers;
  const int number = place->number;
  uint32_t seen = 0;
  free(place);
  for (;;) {
    CDR_SPIN_UNTIL(__atomic_load_n(&w->job_number, __ATOMIC_ACQUIRE) != seen)
    if (__atomic_load_n(&w->job_number, __ATOMIC_ACQUIRE) == seen) {
      pthread_mutex_lock(&w->lock);
      __atomic_add_fetch(&w->sleeping, 1, __ATOMIC_SEQ_CST);
      while (__atomic_load_n(&w->job_number, __ATOMIC_SEQ_CST) == seen) pthread_cond_wait(&w->begun, &w->lock);
      __atomic_sub_fetch(&w->sleeping, 1, __ATOMIC_SEQ_CST);
      pthread_mutex_unlock(&w->lock);
    }
    seen = __atomic_load_n(&w->job_number, __ATOMIC_ACQUIRE);
    if (__atomic_load_n(&w->ending, __ATOMIC_ACQUIRE)) return NULL;
    make_items(w, number);
  }
}

/* Says that there is something to do. */
static void announce(cdr_workers *w)
{
  __atomic_add_fetch(&w->job_number, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&w->sleeping, __ATOMIC_SEQ_CST)) {
    pthread_mutex_lock(&w->lock);
    pthread_cond_broadcast(&w->begun);
    pthread_mutex_unlock(&w->lock);
  }
}

/* As many threads as there are processors that this process may use. */
static long processors(void)
{
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return sysconf(_SC_NPROCESSORS_ONLN);
}

/* What CDRMIX_THREADS says; or one for each processor, up to what memory keeps busy.  0: it says nothing that is a number. */
static int usual_threads(void)
{
  const char *asked = getenv("CDRMIX_THREADS");
  if (asked && *asked) {
    char *end;
    const long threads = strtol(asked, &end, 10);
    return *end || threads < 1 || threads > CDR_MOST_THREADS ? 0 : (int)threads;
  }
  const long found = processors();
  return found < 1 ? 1 : found > CDR_USUAL_THREADS ? CDR_USUAL_THREADS : (int)found;
}

int cdr_workers_start(cdr_workers **out, int threads)
{
  *out = NULL;
  if (threads == 0) threads = usual_threads();
  if (threads < 1 || threads > CDR_MOST_THREADS) return CDR_THREADS;
  if (threads == 1) return CDR_OK;
  cdr_workers *w = calloc(1, sizeof *w);
  if (!w) return CDR_NO_MEMORY;
  w->count = 1;
  w->process = getpid();
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->begun, NULL);
  pthread_cond_init(&w->made, NULL);
  for (int i = 1; i < threads; i++) {
    cdr_place *place = malloc(sizeof *place);
    if (!place) break;
    *place = (cdr_place){w, i};
    if (pthread_create(&w->thread[i], NULL, look_for_work, place) != 0) {
      free(place);
      break;
    }
    w->count++; /* no work is called for yet, so nobody reads it */
  }
  if (w->count == 1) cdr_workers_stop(w);
  else *out = w;
  return CDR_OK;
}

void cdr_workers_stop(cdr_workers *w)
{
  if (!w) return;
  if (w->process == getpid()) { /* the child of a fork has none of the threads */
    __atomic_store_n(&w->ending, 1, __ATOMIC_RELEASE);
    announce(w);
    for (int i = 1; i < w->count; i++) pthread_join(w->thread[i], NULL);
    pthread_cond_destroy(&w->made);
    pthread_cond_destroy(&w->begun);
    pthread_mutex_destroy(&w->lock);
  }
  free(w);
}

cdr_workers *cdr_workers_take(cdr_workers *w)
{
  return w && w->process == getpid() && !__atomic_exchange_n(&w->taken, 1, __ATOMIC_ACQUIRE) ? w : NULL;
}

void cdr_workers_give(cdr_workers *w)
{
  if (w) __atomic_store_n(&w->taken, 0, __ATOMIC_RELEASE);
}

int cdr_workers_count(const cdr_workers *w) { return w ? w->count : 1; }

void cdr_share(cdr_workers *w, cdr_work *work, const void *job, ptrdiff_t items)
{
  if (!w || items > UINT16_MAX) {
    work(job, 0, items);
    return;
  }
  w->work = work;
  w->job = job;
  __atomic_store_n(&w->left, items, __ATOMIC_RELAXED);
  for (ptrdiff_t i = 0; i < w->count; i++) {
    const uint64_t from = (uint64_t)(items * i / w->count), to = (uint64_t)(items * (i + 1) / w->count);
    const uint64_t number = (uint64_t)(w->job_number + 1) << 32;
    __atomic_store_n(&w->part[i].word, number | to << 16 | from, __ATOMIC_RELEASE);
  }
  announce(w);
  make_items(w, 0);
  CDR_SPIN_UNTIL(__atomic_load_n(&w->left, __ATOMIC_ACQUIRE) == 0)
  if (__atomic_load_n(&w->left, __ATOMIC_ACQUIRE) == 0) return;
  pthread_mutex_lock(&w->lock);
  __atomic_store_n(&w->awaited, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&w->left, __ATOMIC_SEQ_CST) != 0) pthread_cond_wait(&w->made, &w->lock);
  __atomic_store_n(&w->awaited, 0, __ATOMIC_SEQ_CST);
  pthread_mutex_unlock(&w->lock);
}

#else /* no threads: the caller makes everything */

int cdr_workers_start(cdr_workers **out, int threads)
{
  (void)threads;
  *out = NULL;
  return CDR_OK;
}
void cdr_workers_stop(cdr_workers *w) { (void)w; }
cdr_workers *cdr_workers_take(cdr_workers *w) { return w; }
void cdr_workers_give(cdr_workers *w) { (void)w; }
int cdr_workers_count(const cdr_workers *w) { return (void)w, 1; }
void cdr_share(cdr_workers *w, cdr_work *work, const void *job, ptrdiff_t items)
{
  (void)w;
  work(job, 0, items);
}
#endif
