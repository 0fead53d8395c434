// The matrix unit: what it reads from CBs passes SrcA and SrcB, where an f32 loses bits (numerics.h).
#include "datapath.h"
#include "numerics.h"

namespace emulation {

using Words = uint32_t[TILE_ELEMENTS];

// A tile on its way to SrcA or SrcB.
static void source(const char* operation, uint32_t cb, uint32_t tile, uint32_t* words) {
    const CircularBuffer& of = cb_of(cb);
    if (of.unpack_to_dest) fail("%s: CB %u is in UnpackToDestFp32 mode, it cannot feed the FPU", operation, cb);
    if (of.format != DataFormat::Float32 && of.format != DataFormat::Float16_b)
        fail("%s: whole numbers do not pass the FPU (CB %u)", operation, cb);
    load(operation, cb, tile, words, true);
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++) words[n] = flushed(source_register(words[n]));
}

static void transpose_words(uint32_t* words, uint32_t transposed) {
    Words was;
    __builtin_memcpy(was, words, sizeof was);
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++) {
        uint32_t face = n / 256, r = n % 256 / 16, c = n % 16;
        uint32_t from = transposed & 1 ? face % 2 * 2 + face / 2 : face;
        words[n] = was[from * 256 + (transposed & 2 ? c * 16 + r : r * 16 + c)];
    }
}

// --- to DST as they are --------------------------------------------------------------------------------------------
// Straight into the registers with all bits, where the CB is in that mode; else through SrcA. What was never written
// keeps its pattern: only its use is a mistake.
static void to_dst(const char* operation, uint32_t cb, uint32_t tile, uint32_t dst, uint32_t transposed) {
    pause();
    need_sources(operation, int(cb), -1);
    const CircularBuffer& of = cb_of(cb);
    bool whole_numbers = of.format == DataFormat::Int32 || of.format == DataFormat::UInt32;
    if ((of.unpack_to_dest || whole_numbers) && !registers().fp32)
        fail("%s: CB %u needs fp32_dest_acc_en to be unpacked to DST", operation, cb);
    uint32_t* words = dst_tile(dst, operation, false);
    load(operation, cb, tile, words, false);
    if (!of.unpack_to_dest && !whole_numbers)
        for (uint32_t n = 0; n < TILE_ELEMENTS; n++)
            if (!is_unset(words[n])) words[n] = source_register(words[n]);
    if (transposed) transpose_words(words, transposed);
    dst_written(dst);
}

static uint32_t direct(uint32_t cb) { return cb_of(cb).unpack_to_dest ? 16 : 0; }

void copy_setup(uint32_t cb, uint32_t transposed) {
    if (transposed && direct(cb)) fail("copy_init: the unpacker cannot transpose on the way to DST (CB %u)", cb);
    setup_fpu("copy_init", transposed | direct(cb));
}
void copy(uint32_t cb, uint32_t tile, uint32_t dst) {
    uint32_t transposed = self->core->setup.fpu_variant & 3;
    need_fpu("copy_tile", "copy_init", transposed | direct(cb));
    to_dst("copy_tile", cb, tile, dst, transposed);
}

void transpose_setup(uint32_t cb) { setup_fpu("transpose_init", direct(cb)); }
void transpose(uint32_t cb, uint32_t tile, uint32_t dst) {
    need_fpu("transpose_tile", "transpose_init", direct(cb));
    to_dst("transpose_tile", cb, tile, dst, 3);
}

// Element n of a tile that is broadcast.
static uint32_t broadcast_place(Broadcast shape, uint32_t n, uint32_t row = 0) {
    uint32_t face = n / 256, r = face / 2 * 16 + n % 256 / 16, c = face % 2 * 16 + n % 16;
    switch (shape) {
        case FULL: return n;
        case COLUMN: return place(r, 0);
        case ROW: return place(row, c);
        case SCALAR: return 0;
    }
    return n;
}

void broadcast_setup(uint32_t cb, Broadcast shape) { setup_fpu("unary_bcast_init", shape | direct(cb)); }
void broadcast(uint32_t cb, uint32_t tile, uint32_t dst, Broadcast shape) {
    need_fpu("unary_bcast", "unary_bcast_init", shape | direct(cb));
    to_dst("unary_bcast", cb, tile, dst, 0);
    uint32_t* words = dst_tile(dst, "unary_bcast", true);
    Words was;
    __builtin_memcpy(was, words, sizeof was);
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++) words[n] = was[broadcast_place(shape, n)];
}

// --- matrix products -----------------------------------------------------------------------------------------------
// Passes over the operands' slices.
static int passes() { return registers().fidelity ? registers().fidelity : 1; }

static const char* matmul_name(bool block) { return block ? "matmul_block_init" : "matmul_init"; }

void matmul_setup(uint32_t in0, uint32_t in1, uint32_t transposed, uint32_t columns, uint32_t rows, bool block) {
    cb_of(in0), cb_of(in1);
    setup_fpu(matmul_name(block), (transposed ? 1 : 0) | columns << 1 | rows << 9);
}

// dst[r, c] += sum over k of in0[r, k] * in1[k, c].  in0 comes through SrcB, in1 through SrcA.
static void multiply(uint32_t in0, uint32_t in1, uint32_t tile0, uint32_t tile1, uint32_t dst, bool transposed) {
    Words a, b;
    source("matmul_tiles", in0, tile0, a);
    source("matmul_tiles", in1, tile1, b);
    if (transposed) transpose_words(b, 3);
    uint32_t* out = dst_tile(dst, "matmul_tiles", false);
    if (registers().set[registers().math_half][dst]) check_set("matmul_tiles", out, "DST tile", dst);
    multiply_tiles(a, b, out, passes(), registers().fp32, !machine().blackhole);
    dst_written(dst);
}

void matmul(uint32_t in0, uint32_t in1, uint32_t tile0, uint32_t tile1, uint32_t dst) {
    pause();
    uint32_t transposed = self->core->setup.fpu_variant & 1;
    need_fpu("matmul_tiles", "matmul_init", transposed | 1 << 1 | 1 << 9);
    need_sources("matmul_tiles", int(in1), int(in0));
    multiply(in0, in1, tile0, tile1, dst, transposed);
}

void matmul_blocks(uint32_t in0, uint32_t in1, uint32_t tile0, uint32_t tile1, uint32_t dst, uint32_t transposed,
                   uint32_t columns, uint32_t rows, uint32_t inner) {
    pause();
    need_fpu("matmul_block", "matmul_block_init", (transposed ? 1 : 0) | columns << 1 | rows << 9);
    need_sources("matmul_block", int(in1), int(in0));
    for (uint32_t r = 0; r < rows; r++)  // one step of k: in0's tiles lie `inner` apart, in1's beside one another
        for (uint32_t c = 0; c < columns; c++)
            multiply(in0, in1, tile0 + r * inner, tile1 + c, dst + r * columns + c, transposed);
}

// --- element by element --------------------------------------------------------------------------------------------
static const char* const BINARY_INITS[3][4] = {
    {"add_init", "add_bcast_cols_init", "add_bcast_rows_init", "add_bcast_scalar_init"},
    {"sub_init", "sub_bcast_cols_init", "sub_bcast_rows_init", "sub_bcast_scalar_init"},
    {"mul_init", "mul_bcast_cols_init", "mul_bcast_rows_init", "mul_bcast_scalar_init"},
};
static const char* const BINARY_NAMES[3] = {"add_tiles", "sub_tiles", "mul_tiles"};

// A product is always added to what DST holds; a sum where the init said so.
static void combine(Binary what, const Words& a, const Words& b, uint32_t* out, bool accumulates) {
    bool wide = registers().fp32, quirk = !machine().blackhole;
    const Term nothing{0, 0, 0};
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++) {
        uint32_t now = accumulates ? out[n] : 0;
        if (what == MUL)
            for (int pass = 0; pass < passes(); pass++)
                now = accumulate(now, product(a[n], b[n], pass), nothing, wide, quirk);
        else
            now = accumulate(now, sum_of(a[n], what == SUB ? b[n] ^ 0x80000000u : b[n]), nothing, wide, quirk);
        out[n] = now;
    }
}

void binary_setup(Binary what, Broadcast shape, uint32_t in0, uint32_t in1, bool accumulate) {
    cb_of(in0), cb_of(in1);
    setup_fpu(BINARY_INITS[what][shape], 0, accumulate);
}

void binary(Binary what, Broadcast shape, uint32_t in0, uint32_t in1, uint32_t tile0, uint32_t tile1, uint32_t dst,
            uint32_t row) {
    pause();
    const char* name = BINARY_NAMES[what];
    need_fpu(name, BINARY_INITS[what][shape], 0);
    need_sources(name, int(in0), int(in1));
    Words a, b, spread;
    source(name, in0, tile0, a);
    source(name, in1, tile1, b);
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++) spread[n] = b[broadcast_place(shape, n, row)];
    uint32_t* out = dst_tile(dst, name, false);
    combine(what, a, spread, out, what == MUL || self->core->setup.accumulates);
    dst_written(dst);
}

static const char* const REUSE_INITS[3] = {"add_reuse_dest_init", "sub_reuse_dest_init", "mul_reuse_dest_init"};

void reuse_setup(Binary what, Reuse dst_is, uint32_t cb) {
    setup_fpu(REUSE_INITS[what], dst_is | cb_of(cb).page_bytes << 2);
}

void reuse(Binary what, Reuse dst_is, uint32_t cb, uint32_t tile, uint32_t dst) {
    pause();
    need_fpu(BINARY_NAMES[what], REUSE_INITS[what], dst_is | cb_of(cb).page_bytes << 2);
    if (dst_is == AS_A)
        need_sources(BINARY_NAMES[what], -1, int(cb));
    else
        need_sources(BINARY_NAMES[what], int(cb), -1);
    Words a, b;
    uint32_t* out = dst_tile(dst, BINARY_NAMES[what], true);
    check_set(BINARY_NAMES[what], out, "DST tile", dst);
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++) a[n] = flushed(source_register(out[n]));
    source(BINARY_NAMES[what], cb, tile, b);
    if (dst_is == AS_A)
        combine(what, a, b, out, false);
    else
        combine(what, b, a, out, false);
    dst_written(dst);
}

// --- reductions ----------------------------------------------------------------------------------------------------
void reduce_setup(Pool what, Direction along, uint32_t cb, uint32_t scaler, uint32_t) {
    cb_of(cb), cb_of(scaler);
    setup_fpu("reduce_init", what | along << 2);
}
void reduce_done() { self->core->setup.fpu = "reduce_uninit"; }

// The result lies in column 0, in row 0 or at (0, 0); the rest of the tile is packed as zeros.
void reduce(Pool what, Direction along, uint32_t cb, uint32_t scaler, uint32_t tile, uint32_t scaler_tile,
            uint32_t dst) {
    pause();
    need_fpu("reduce_tile", "reduce_init", what | along << 2);
    bool swapped = along == ALONG_ROW && what != MAXIMUM;
    need_sources("reduce_tile", int(swapped ? scaler : cb), int(swapped ? cb : scaler));
    if (what == MINIMUM) fail("reduce_tile: MIN is not emulated");
    Words x, by;
    source("reduce_tile", cb, tile, x);
    source("reduce_tile", scaler, scaler_tile, by);
    bool begun = registers().set[registers().math_half][dst];
    uint32_t* out = dst_tile(dst, "reduce_tile", false);
    float factor = as_float(by[0]);
    if (along == WHOLE && what != MAXIMUM) factor *= as_float(by[0]);  // rows first, then the column of sums
    for (uint32_t line = 0; line < (along == WHOLE ? 1u : 32u); line++) {
        float sum = what == MAXIMUM ? -__builtin_inff() : 0;
        for (uint32_t n = 0; n < (along == WHOLE ? TILE_ELEMENTS : 32u); n++) {
            float value = as_float(x[along == WHOLE ? n : along == ALONG_ROW ? place(line, n) : place(n, line)]);
            sum = what == MAXIMUM ? (value > sum ? value : sum) : sum + value;
        }
        uint32_t& to = out[along == WHOLE ? 0 : along == ALONG_ROW ? place(line, 0) : place(0, line)];
        float before = as_float(to);
        to =
            as_word(what == MAXIMUM ? (begun && before > sum * factor ? before : sum * factor) : before + sum * factor);
    }
    dst_written(dst);
}

}  // namespace emulation
