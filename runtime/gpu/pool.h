/* Memory that is given back all at once. */
#ifndef CDR_POOL_H
#define CDR_POOL_H

#include <stddef.h>

typedef struct cdr_block cdr_block;

typedef struct {
  cdr_block *last;
} cdr_pool;

/* Room for `count` things of `size` bytes, all zero; NULL when there is none.  Never NULL for nothing. */
void *cdr_pool_take(cdr_pool *pool, size_t count, size_t size);
void cdr_pool_free(cdr_pool *pool);

#endif
