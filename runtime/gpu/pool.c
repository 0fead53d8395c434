#include "pool.h"

#include <stdint.h>
#include <stdlib.h>

typedef union {
  long double number;
  void *pointer;
  uint64_t bits;
} cdr_widest;

struct cdr_block {
  cdr_block *before;
  cdr_widest room[];
};

void *cdr_pool_take(cdr_pool *pool, size_t count, size_t size)
{
  if (size && count > (SIZE_MAX / 2 - sizeof(cdr_block)) / size) return NULL;
  cdr_block *made = calloc(1, sizeof *made + count * size);
  if (!made) return NULL;
  made->before = pool->last;
  pool->last = made;
  return made->room;
}

void cdr_pool_free(cdr_pool *pool)
{
  while (pool->last) {
    cdr_block *before = pool->last->before;
    free(pool->last);
    pool->last = before;
  }
}
