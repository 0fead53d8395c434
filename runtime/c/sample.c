#include "sample.h"

#include <math.h>
#include <stdlib.h>

/* splitmix64 (Steele, Lea, Flood 2014) */
double cdr_draw(uint64_t *state)
{
  uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
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

static int32_t largest(const float *logits, int32_t vocab)
{
  int32_t best = 0;
  for (int32_t i = 1; i < vocab; i++)
    if (logits[i] > logits[best]) best = i;
  return best;
}

int32_t cdr_sample(cdr_sampling *how, const float *logits, int32_t vocab, cdr_candidate *room)
{
  int32_t best = largest(logits, vocab), count = vocab;
  double total = 0, sum = 0;
  if (how->temperature <= 0) return best;
  for (int32_t i = 0; i < vocab; i++) {
    room[i].id = i;
    room[i].p = exp(((double)logits[i] - (double)logits[best]) / how->temperature);
    if (room[i].p != room[i].p) room[i].p = 0;
  }
  if (how->top_k > 0 || how->top_p < 1) {
    qsort(room, (size_t)vocab, sizeof *room, likelier_first);
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
  return best;
}
