/* Shares jobs of random sizes among threads: every item is made once, and before cdr_share returns. */
#define _DEFAULT_SOURCE 1
#include "errors.h"
#include "workers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { JOBS = 3000, MOST = 300, MANY = 70000 };

typedef struct {
  int *made;
  int value;
} job;

static void make(const void *given, ptrdiff_t from, ptrdiff_t to)
{
  const job *j = given;
  for (ptrdiff_t i = from; i < to; i++) {
    for (volatile int busy = 0; busy < (int)(i * 7 % 50); busy++) continue;
    j->made[i] += j->value;
  }
}

int main(int argc, char **argv)
{
  cdr_workers *w;
  unsigned seed = 1;
  if (argc != 2 || cdr_workers_start(&w, atoi(argv[1])) != CDR_OK) return 2;
  for (int n = 1; n <= JOBS; n++) {
    int made[MOST] = {0};
    const job j = {made, n};
    const ptrdiff_t items = (ptrdiff_t)(seed = seed * 1103515245u + 12345u) / 65536 % MOST;
    cdr_share(w, make, &j, items);
    for (ptrdiff_t i = 0; i < MOST; i++)
      if (made[i] != (i < items ? n : 0)) return printf("job %d: item %d of %d is %d\n", n, (int)i, (int)items, made[i]), 1;
    if (n % 300 == 0) usleep(1000); /* the others fall asleep */
  }
  static int many[MANY]; /* more than there are numbers for items */
  cdr_share(w, make, &(job){many, 1}, MANY);
  for (int i = 0; i < MANY; i++)
    if (many[i] != 1) return printf("of many: item %d is %d\n", i, many[i]), 1;
  if (cdr_workers_take(w) != w || (w && cdr_workers_take(w))) return puts("two threads have the workers"), 1;
  cdr_workers_give(w);
  printf("%d threads\n", cdr_workers_count(w));
  cdr_workers_stop(w);
  return 0;
}
