#include "matrix.h"

#include "encodings.h"
#include "errors.h"
#include "matrix_kernels.h"

#include <stdlib.h>
#include <string.h>

/* --- which kernels --------------------------------------------------------------------------------------------- */
static const cdr_kernels *const known[] = {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(CDR_PLAIN)
  &cdr_kernels_avx512_bf16, &cdr_kernels_avx512,
#if defined(CDR_AVX2_VNNI)
  &cdr_kernels_avx2_vnni,
#endif
  &cdr_kernels_avx2,
#endif
#if defined(CDR_NEON_DOT)
  &cdr_kernels_neon_dot,
#endif
#if defined(__aarch64__) && defined(__GNUC__) && !defined(CDR_PLAIN)
  &cdr_kernels_neon,
#endif
#if defined(__wasm_simd128__) && !defined(CDR_PLAIN)
  &cdr_kernels_wasm,
#endif
  &cdr_kernels_plain,
};

static const cdr_kernels *in_use;

static const cdr_kernels *kernels(void)
{
  if (in_use) return in_use;
  const char *asked = getenv("CDRMIX_KERNELS");
  const int count = (int)(sizeof known / sizeof *known);
  for (int i = 0; i < count; i++)
    if (known[i]->there() && (!asked || !*asked || strcmp(asked, known[i]->name) == 0)) return in_use = known[i];
  return in_use = known[count - 1];
}

const char *cdr_kernels_name(void) { return kernels()->name; }

/* --- the packed order ------------------------------------------------------------------------------------------ */
static const unsigned char bytes_of[CDR_ENCODINGS] = {4, 2, 2, 1, 1, 0};
static const unsigned char multiple[CDR_ENCODINGS] = {4, 4, 4, CDR_GROUP, CDR_GROUP, CDR_GROUP}; /* of which there are columns */

static ptrdiff_t up(ptrdiff_t n, ptrdiff_t to) { return (n + to - 1) / to * to; }

static ptrdiff_t groups_of(ptrdiff_t cols) { return up(cols, CDR_GROUP) / CDR_GROUP; }

/* The bytes of a row of the file: of its numbers, and of its scales. */
static size_t numbers_of(cdr_encoding e, ptrdiff_t cols)
{
  return e == CDR_AS_I4 ? (size_t)groups_of(cols) * (CDR_GROUP / 2) : (size_t)cols * bytes_of[e];
}
static size_t scales_of(cdr_encoding e, ptrdiff_t cols)
{
  if (e < CDR_AS_I8) return 0;
  if (e == CDR_AS_I8) return sizeof(float);
  return (size_t)groups_of(cols) * (e == CDR_AS_I4 ? sizeof(uint16_t) : sizeof(float));
}

/* The bytes of a block of rows: of its numbers, and of its scales. */
static size_t block_size(cdr_encoding e, ptrdiff_t cols)
{
  if (e == CDR_AS_I4) return (size_t)(groups_of(cols) * CDR_NUMBERS_OF(e));
  return CDR_ROWS * (size_t)up(cols, multiple[e]) * bytes_of[e];
}
static size_t block_scales(cdr_encoding e, ptrdiff_t cols) { return CDR_ROWS * scales_of(e, cols); }

static size_t blocks_of(ptrdiff_t rows) { return (size_t)(up(rows, CDR_ROWS) / CDR_ROWS); }

size_t cdr_packed_size(cdr_encoding e, ptrdiff_t rows, ptrdiff_t cols) { return blocks_of(rows) * block_size(e, cols); }

size_t cdr_packed_scales(cdr_encoding e, ptrdiff_t rows, ptrdiff_t cols) { return blocks_of(rows) * block_scales(e, cols); }

/* Lays the numbers of a block in its order, `together` columns of a row side by side; whole numbers become 128 more. */
CDR_INLINE void lay(unsigned char *to, const unsigned char *from, ptrdiff_t rows, ptrdiff_t cols, const size_t unit,
                    const ptrdiff_t together)
{
  for (ptrdiff_t k = 0; k < cols; k += together)
    for (ptrdiff_t r = 0; r < rows; r++)
      for (ptrdiff_t i = 0; i < together && k + i < cols; i++) {
        unsigned char *at = to + (size_t)((k / together * CDR_ROWS + r) * together + i) * unit;
        const unsigned char *number = from + (size_t)(r * cols + k + i) * unit;
        if (unit == 1) *at = *number ^ 128;
        else memcpy(at, number, unit);
      }
}

static void lay_nibbles(unsigned char *to, const unsigned char *from, ptrdiff_t rows, ptrdiff_t cols)
{
  for (ptrdiff_t k = 0; k < up(cols, CDR_GROUP); k++)
    for (ptrdiff_t r = 0; r < rows; r++) {
      const int number = from[r * groups_of(cols) * (CDR_GROUP / 2) + k / 2] >> 4 * (k % 2) & 15, high = (int)(k / 4 % 2);
      unsigned char *at = to + (k / 8 * CDR_ROWS + r) * 4 + k % 4;
      *at = (unsigned char)((*at & (high ? 0x0f : 0xf0)) | number << 4 * high);
    }
}

/* A block of rows, padded with what stands for zeros. */
static void pack_block(cdr_encoding e, unsigned char *to, unsigned char *to_scales, const unsigned char *from,
                       const unsigned char *scales, ptrdiff_t rows, ptrdiff_t cols)
{
  const ptrdiff_t groups = e == CDR_AS_I8 ? 1 : groups_of(cols);
  if (!CDR_IS_PACKED(e)) return;
  memset(to, e == CDR_AS_I4 ? 0x88 : e == CDR_AS_I8 || e == CDR_AS_I8G32 ? 128 : 0, block_size(e, cols));
  switch (e) {
  case CDR_AS_F32: lay(to, from, rows, cols, 4, 1); return;
  case CDR_AS_F16: lay(to, from, rows, cols, 2, 1); return;
  case CDR_AS_BF16: lay(to, from, rows, cols, 2, 2); return;
  case CDR_AS_I4: lay_nibbles(to, from, rows, cols); break;
  default: lay(to, from, rows, cols, 1, 4);
  }
  const size_t unit = e == CDR_AS_I4 ? sizeof(uint16_t) : sizeof(float);
  memset(to_scales, 0, block_scales(e, cols));
  for (ptrdiff_t g = 0; g < groups; g++)
    for (ptrdiff_t r = 0; r < rows; r++)
      memcpy(to_scales + (size_t)(g * CDR_ROWS + r) * unit, scales + (size_t)(r * groups + g) * unit, unit);
}

void cdr_pack(cdr_encoding e, unsigned char *blocks, unsigned char *to_scales, const void *numbers, const void *scales,
              ptrdiff_t rows, ptrdiff_t cols)
{
  for (ptrdiff_t row = 0; row < rows; row += CDR_ROWS, blocks += block_size(e, cols), to_scales += block_scales(e, cols)) {
    const unsigned char *from = (const unsigned char *)numbers + (size_t)row * numbers_of(e, cols), *by = scales;
    if (by) by += (size_t)row * scales_of(e, cols);
    pack_block(e, blocks, to_scales, from, by, rows - row < CDR_ROWS ? rows - row : CDR_ROWS, cols);
  }
}

/* A matrix, some rows at a time; `read` are the bytes that were read and not let go of. */
static void pack_matrix(const cdr_packing *p, unsigned char *to, unsigned char *to_scales, const unsigned char *numbers,
                        const unsigned char *scales, const cdr_file *file, size_t *read)
{
  const size_t of_row = numbers_of(p->encoding, p->cols);
  const ptrdiff_t each = up((ptrdiff_t)(CDR_AT_ONCE / of_row) + 1, CDR_ROWS);
  for (ptrdiff_t row = 0; row < p->rows; row += each) {
    const unsigned char *by = scales ? scales + (size_t)row * scales_of(p->encoding, p->cols) : NULL;
    const ptrdiff_t rows = p->rows - row < each ? p->rows - row : each;
    unsigned char *blocks = to + cdr_packed_size(p->encoding, row, p->cols);
    cdr_pack(p->encoding, blocks, to_scales + cdr_packed_scales(p->encoding, row, p->cols), numbers + (size_t)row * of_row, by,
             rows, p->cols);
    *read += (size_t)rows * of_row;
    if (*read >= CDR_AT_ONCE) cdr_weights_unread(file), *read = 0;
  }
}

/* The bytes of a bank's numbers, and of its scales. */
static uint64_t numbers_of_all(const cdr_packing *p)
{
  return (uint64_t)p->count * cdr_packed_size(p->encoding, p->rows, p->cols);
}
static uint64_t scales_of_all(const cdr_packing *p)
{
  return (uint64_t)p->count * cdr_packed_scales(p->encoding, p->rows, p->cols);
}

static void pack_bank(const cdr_packing *p, unsigned char *to, const void *const *tensors, const cdr_file *file, size_t *read)
{
  unsigned char *to_scales = to + (size_t)numbers_of_all(p);
  const unsigned char *numbers = tensors[p->numbers], *scales = p->scales < 0 ? NULL : tensors[p->scales];
  for (int e = 0; e < p->count; e++) {
    pack_matrix(p, to, to_scales, numbers, scales, file, read);
    to += cdr_packed_size(p->encoding, p->rows, p->cols);
    to_scales += cdr_packed_scales(p->encoding, p->rows, p->cols);
    numbers += (size_t)p->rows * numbers_of(p->encoding, p->cols);
    if (scales) scales += (size_t)p->rows * scales_of(p->encoding, p->cols);
  }
}

/* A tensor that lies in blocks already. */
static void copy_bank(const cdr_packing *p, unsigned char *to, const void *const *tensors, const cdr_file *file, size_t *read)
{
  const size_t all = (size_t)numbers_of_all(p);
  for (size_t at = 0, some; at < all; at += some) {
    some = all - at < CDR_AT_ONCE ? all - at : CDR_AT_ONCE;
    memcpy(to + at, (const unsigned char *)tensors[p->numbers] + at, some);
    if ((*read += some) >= CDR_AT_ONCE) cdr_weights_unread(file), *read = 0;
  }
  if (p->scales >= 0) memcpy(to + all, tensors[p->scales], (size_t)scales_of_all(p));
}

int cdr_pack_all(cdr_packs *packs, const cdr_packing *packings, int count, const void *const *tensors,
                 const unsigned char *in_blocks, const cdr_file *file, cdr_packed *packed)
{
  uint64_t size = 0;
  size_t read = 0;
  const char *how = getenv("CDRMIX_WEIGHTS");
  const int copied = how && strcmp(how, "copied") == 0;
  kernels(); /* chosen now, before threads may ask for them */
  for (int i = 0; i < count; i++) {
    const cdr_packing *p = &packings[i];
    const int in_groups = p->scales >= 0 && p->encoding != CDR_AS_I8; /* the scales of rows lie one way alone */
    if (in_groups && in_blocks[p->numbers] != in_blocks[p->scales]) return cdr_error_of(CDR_TENSOR_BLOCKS, p->numbers);
    packed[i] = (cdr_packed){NULL, NULL};
    if (in_blocks[p->numbers] && (p->count > 1 || !copied))
      packed[i] = (cdr_packed){tensors[p->numbers], p->scales < 0 ? NULL : tensors[p->scales]};
    else size += numbers_of_all(p) + scales_of_all(p);
  }
  if (size > SIZE_MAX - CDR_PAGE || (size && !(packs->memory = cdr_pages((size_t)size)))) return CDR_NO_MEMORY;
  packs->size = (size_t)size;
  unsigned char *to = packs->memory;
  for (int i = 0; i < count; i++) {
    const cdr_packing *p = &packings[i];
    if (packed[i].blocks) continue;
    if (in_blocks[p->numbers]) copy_bank(p, to, tensors, file, &read);
    else pack_bank(p, to, tensors, file, &read);
    packed[i] = (cdr_packed){to, to + (size_t)numbers_of_all(p)};
    to += (size_t)(numbers_of_all(p) + scales_of_all(p));
  }
  cdr_weights_unread(file);
  return CDR_OK;
}

void cdr_pack_free(cdr_packs *packs) { cdr_pages_free(packs->memory); }

/* --- vectors as the kernels read them -------------------------------------------------------------------------- */
static void round_to_pairs(uint16_t *to, const float *x, ptrdiff_t n, ptrdiff_t padded)
{
  for (ptrdiff_t k = 0; k < n; k++) {
    uint32_t bits;
    memcpy(&bits, x + k, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    to[k] = (uint16_t)(x[k] != x[k] ? 0x7fc0 : rounded);
  }
  for (ptrdiff_t k = n; k < padded; k++) to[k] = 0;
}

/* A group as whole numbers: the largest is 127 scales.  What is not finite makes the scale no number. */
static void round_group(int8_t *to, const float *x, ptrdiff_t n, int32_t more, float *scale, int32_t *begin)
{
  const float nearest = 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole number */
  const int32_t infinite = 0x7f800000;
  float group[CDR_GROUP] = {0}, most;
  int32_t largest = 0, sum = 0;
  memcpy(group, x, (size_t)n * sizeof *x);
  for (int k = 0; k < CDR_GROUP; k++) {
    int32_t size; /* the bits of what is not negative are in the order of the numbers */
    memcpy(&size, group + k, sizeof size);
    size &= 0x7fffffff;
    largest = size > largest ? size : largest;
  }
  memcpy(&most, &largest, sizeof most);
  if (largest >= infinite) memset(group, 0, sizeof group);
  const float over = largest < infinite ? 127.0f / most : 0.0f, by = over <= 3.4028234e38f ? over : 0.0f;
  for (int k = 0; k < CDR_GROUP; k++) {
    const int32_t whole = (int32_t)((group[k] * by + nearest) - nearest);
    to[k] = (int8_t)whole;
    sum += whole;
  }
  *scale = largest >= infinite ? most - most : by > 0.0f ? most / 127.0f : 0.0f;
  *begin = -more * sum;
}

static cdr_prepared prepare(cdr_operand operand, cdr_encoding e, const float *x, ptrdiff_t cols, ptrdiff_t n, void *scratch)
{
  cdr_prepared found = {scratch, NULL, NULL, up(cols, multiple[e]), groups_of(cols)};
  if (operand == CDR_FLOATS) {
    if (found.cols == cols) {
      found.values = x;
      return found;
    }
    float *to = scratch;
    for (ptrdiff_t t = 0; t < n; t++, x += cols, to += found.cols) {
      memcpy(to, x, (size_t)cols * sizeof *x);
      memset(to + cols, 0, (size_t)(found.cols - cols) * sizeof *x);
    }
  } else if (operand == CDR_PAIRS) {
    uint16_t *to = scratch;
    for (ptrdiff_t t = 0; t < n; t++) round_to_pairs(to + t * found.cols, x + t * cols, cols, found.cols);
  } else {
    int8_t *to = scratch;
    float *scale = (float *)(void *)(to + n * found.cols);
    int32_t *begin = (int32_t *)(void *)(scale + n * found.groups);
    for (ptrdiff_t t = 0; t < n; t++)
      for (ptrdiff_t g = 0; g < found.groups; g++) {
        const ptrdiff_t from = g * CDR_GROUP, at = t * found.groups + g;
        const ptrdiff_t count = cols - from < CDR_GROUP ? cols - from : CDR_GROUP;
        round_group(to + t * found.cols + from, x + t * cols + from, count, e == CDR_AS_I4 ? 8 : 128, scale + at, begin + at);
      }
    found.scale = scale;
    found.begin = begin;
  }
  return found;
}

/* --- products --------------------------------------------------------------------------------------------------- */
enum { WORTH_SHARING = 1 << 16, ITEM = 1 << 14, MOST_ITEMS = 1 << 10 }; /* bytes of weights for one vector */

/* A job in items of some blocks of rows, an even number of them, for kernels that take two at once. */
typedef struct {
  cdr_job job;
  cdr_kernel *run;
  ptrdiff_t blocks, each;
} cdr_shared;

static void make_blocks(const void *given, ptrdiff_t from, ptrdiff_t to)
{
  const cdr_shared *s = given;
  const ptrdiff_t end = to * s->each;
  s->run(&s->job, from * s->each, end < s->blocks ? end : s->blocks);
}

void cdr_product(cdr_workers *workers, cdr_encoding e, float *restrict y, cdr_packed W, const float *restrict x,
                 ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t n, void *restrict scratch)
{
  const cdr_kernels *k = kernels();
  const ptrdiff_t blocks = (ptrdiff_t)blocks_of(rows), work = (ptrdiff_t)block_size(e, cols) * (4 + n) / 5;
  cdr_shared s = {.run = k->of[e].run, .blocks = blocks, .each = up(up(ITEM, work) / work, 2)};
  s.job = (cdr_job){y, W.blocks, W.scales, prepare(k->of[e].operand, e, x, cols, n, scratch), rows, up(cols, multiple[e]), n};
  if (s.each < up(blocks, MOST_ITEMS) / MOST_ITEMS) s.each = up(up(blocks, MOST_ITEMS) / MOST_ITEMS, 2);
  if (blocks * work < WORTH_SHARING) workers = NULL;
  cdr_share(workers, make_blocks, &s, up(blocks, s.each) / s.each);
}
