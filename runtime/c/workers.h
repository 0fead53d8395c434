/* Threads that share one piece of work after another with the thread that has it.

   The work is `items` that do not depend on each other.  Each thread has its share of them, taken item by item, and helps
   with the others' when its own is done: nobody waits for a thread that the system has not let run.  Which thread makes
   an item changes nothing in it, so that results are the same whatever the number of threads.  A thread that waits looks
   for work for a while (SPIN_NS in workers.c) and then sleeps. */
#ifndef CDR_WORKERS_H
#define CDR_WORKERS_H

#include <stddef.h>

enum { CDR_MOST_THREADS = 64, CDR_USUAL_THREADS = 8 };

typedef struct cdr_workers cdr_workers;

/* Makes the items [from, to) of a job. */
typedef void cdr_work(const void *job, ptrdiff_t from, ptrdiff_t to);

/* Starts `threads` less one, as many as the system grants; *out is NULL where that is none.  0 is the usual number: see
   cdr_set_threads in model.h. */
int cdr_workers_start(cdr_workers **out, int threads);
void cdr_workers_stop(cdr_workers *w);

/* The workers, for the calling thread alone until it gives them back; NULL while another thread has them. */
cdr_workers *cdr_workers_take(cdr_workers *w);
void cdr_workers_give(cdr_workers *w);

/* How many threads there are, the caller's among them. */
int cdr_workers_count(const cdr_workers *w);

/* Makes all items of a job and returns when they are made.  `w` may be NULL; nor does it help with more than 65535. */
void cdr_share(cdr_workers *w, cdr_work *work, const void *job, ptrdiff_t items);

#endif
