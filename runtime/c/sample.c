#include "sample.h"

#include <math.h>
#include <stdlib.h>

/* splitmix64 (Steele, Lea, Flood 2014) */
#define STRIDE UINT64_C(0x9e3779b97f4a7c15)

uint64_t cdr_random_at(uint64_t seed, uint64_t tokens) { return seed + tokens * STRIDE; }

double cdr_draw(uint64_t *state)
{
  uint64_t z = *state += STRIDE;
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static int likelier_first(const void *a, const void *b)
{
  const cdr_candidate *x = a, *y = b;
  if (x->p != y->p) return x->p < y->p ? 1 : -1;
  return (x->id > y->id) - (x->id < y->id);
}

/* The tokens that may be chosen, from room[0] on; the place there of the likeliest, -1 when nothing can be chosen. */
static int32_t candidates(const cdr_sampling *how, const float *logits, int32_t vocab, cdr_candidate *room,
                          int32_t *count)
{
  int32_t best = 0, n = 0, bad = 0;
  for (int32_t i = 0; i < vocab; i++) {
    if (how->known && !how->known[i]) continue;
    bad |= logits[i] != logits[i];
    room[n].id = i;
    room[n].p = (double)logits[i];
    if (room[n].p > room[best].p) best = n;
    n++;
  }
  *count = n;
  return bad || n == 0 || room[best].p - room[best].p != 0 ? -1 : best;
}

int32_t cdr_sample(cdr_sampling *how, const float *logits, int32_t vocab, cdr_candidate *room)
{
  int32_t count, at = candidates(how, logits, vocab, room, &count);
  double total = 0, sum = 0;
  if (at < 0) return -1;
  const cdr_candidate best = room[at];
  if (how->temperature <= 0) return best.id;
  for (int32_t i = 0; i < count; i++) room[i].p = exp((room[i].p - best.p) / how->temperature);
  if (how->top_k > 0 || how->top_p < 1) {
    qsort(room, (size_t)count, sizeof *room, likelier_first);
    if (how->top_k > 0 && how->top_k < count) count = how->top_k;
    for (int32_t i = 0; i < count; i++) total += room[i].p;
    /* the smallest set whose probability reaches top_p; the first token always stays */
    int32_t kept = 0;
    do sum += room[kept++].p;
    while (kept < count && sum < how->top_p * total);
    count = kept;
  }
  total = sum = 0;
  for (int32_t i = 0; i < count; i++) total += room[i].p;
  double point = cdr_draw(&how->random) * total;
  for (int32_t i = 0; i < count; i++)
    if ((sum += room[i].p) > point) return room[i].id;
  return best.id;
}
