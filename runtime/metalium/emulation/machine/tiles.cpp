// Unpacker, destination registers, packer; and what they were last set up for.
#include "numerics.h"

namespace emulation {

static const char* format_name(int format) {
    switch (DataFormat(format & 0xFF)) {
        case DataFormat::Float32: return format & 0x100 ? "Float32 (UnpackToDestFp32)" : "Float32";
        case DataFormat::Float16_b: return "Float16_b";
        case DataFormat::Int32: return "Int32";
        case DataFormat::UInt32: return "UInt32";
        default: return format < 0 ? "nothing" : "a format that is not emulated";
    }
}

// A source's format as the unpacker is configured: an f32 goes to DST or, as TF32, to SrcA or SrcB.
static int source_format(uint32_t cb) {
    const CircularBuffer& of = cb_of(cb);
    return int(of.format) | (of.unpack_to_dest ? 0x100 : 0);
}
static int pack_format(uint32_t cb) { return int(cb_of(cb).format); }

static Setup& setup(const char* call) {
    if (self->role != COMPUTE) fail("%s: only for compute kernels", call);
    return self->core->setup;
}

void startup(uint32_t a, uint32_t b, uint32_t out) {
    pause();
    Setup& now = setup("compute_kernel_hw_startup");
    now.source_a = source_format(a), now.source_b = source_format(b), now.pack = pack_format(out);
    now.pack_adds = false;
}

// With an old CB given, the hardware is only touched where the two formats differ.
static void reconfigure(const char* call, int& configured, int old_format, int format) {
    pause();
    if (configured < 0) fail("%s before compute_kernel_hw_startup", call);
    if (old_format < 0 || old_format != format) configured = format;
}
void reconfigure_a(int old_cb, uint32_t cb) {
    reconfigure("reconfig_data_format_srca", setup("reconfig_data_format_srca").source_a,
                old_cb < 0 ? -1 : source_format(old_cb), source_format(cb));
}
void reconfigure_b(int old_cb, uint32_t cb) {
    reconfigure("reconfig_data_format_srcb", setup("reconfig_data_format_srcb").source_b,
                old_cb < 0 ? -1 : source_format(old_cb), source_format(cb));
}
void reconfigure_pack(int old_cb, uint32_t cb) {
    reconfigure("pack_reconfig_data_format", setup("pack_reconfig_data_format").pack,
                old_cb < 0 ? -1 : pack_format(old_cb), pack_format(cb));
}
void pack_accumulate(bool on) { setup("pack_reconfig_l1_acc").pack_adds = on; }

void need_sources(const char* operation, int cb_a, int cb_b) {
    const Setup& now = setup(operation);
    if (cb_a >= 0 && now.source_a != source_format(cb_a))
        fail("%s: SrcA is configured for %s, CB %d holds %s: reconfig_data_format_srca(%d) is missing", operation,
             format_name(now.source_a), cb_a, format_name(source_format(cb_a)), cb_a);
    if (cb_b >= 0 && now.source_b != source_format(cb_b))
        fail("%s: SrcB is configured for %s, CB %d holds %s: reconfig_data_format_srcb(%d) is missing", operation,
             format_name(now.source_b), cb_b, format_name(source_format(cb_b)), cb_b);
}

void setup_fpu(const char* name, uint32_t variant, bool accumulates) {
    pause();
    Setup& now = setup(name);
    if (now.source_a < 0) fail("%s before compute_kernel_hw_startup", name);
    now.fpu = name, now.fpu_variant = variant, now.accumulates = accumulates;
}

void need_fpu(const char* operation, const char* name, uint32_t variant) {
    const Setup& now = setup(operation);
    if (!now.fpu) fail("%s without %s", operation, name);
    if (__builtin_strcmp(now.fpu, name)) fail("%s runs under %s: it needs %s", operation, now.fpu, name);
    if (now.fpu_variant != variant) fail("%s runs under a %s with other arguments", operation, name);
}

// --- destination registers -----------------------------------------------------------------------------------------
Registers& registers() {
    setup("an operation on tiles");
    return *self->core->registers;
}

void acquire() {
    pause();
    Registers& dst = registers();
    if (dst.acquired) fail("tile_regs_acquire twice without tile_regs_commit");
    if (dst.committed == dst.halves) fail("tile_regs_acquire: no half is free until tile_regs_release: deadlock");
    dst.acquired = true;
}

void commit() {
    pause();
    Registers& dst = registers();
    if (!dst.acquired) fail("tile_regs_commit without tile_regs_acquire");
    dst.acquired = false;
    dst.committed++;
    dst.math_half = (dst.math_half + 1) % dst.halves;
}

void wait_for_tiles() {
    pause();
    Registers& dst = registers();
    if (!dst.committed) fail("tile_regs_wait: nothing is committed: deadlock");
    if (dst.packing) fail("tile_regs_wait twice without tile_regs_release");
    dst.packing = true;
}

void release() {
    pause();
    Registers& dst = registers();
    if (!dst.packing) fail("tile_regs_release without tile_regs_wait");
    dst.packing = false;
    dst.committed--;
    for (uint32_t n = 0; n < MAX_DST_TILES; n++) dst.set[dst.pack_half][n] = false;
    dst.pack_half = (dst.pack_half + 1) % dst.halves;
}

static void in_reach(const char* operation, const Registers& dst, uint32_t tile) {
    if (tile >= dst.tiles)
        fail("%s: DST tile %u, there are %u (%s, %s)", operation, tile, dst.tiles, dst.fp32 ? "32 bits" : "16 bits",
             dst.full_sync ? "dst_full_sync_en" : "in two halves");
}

uint32_t* dst_tile(uint32_t tile, const char* operation, bool must_be_set) {
    Registers& dst = registers();
    if (!dst.acquired) fail("%s outside tile_regs_acquire .. tile_regs_commit", operation);
    in_reach(operation, dst, tile);
    uint32_t* words = dst.words[dst.math_half][tile];
    if (!dst.set[dst.math_half][tile]) {
        if (must_be_set) fail("%s reads DST tile %u, which is not set", operation, tile);
        for (uint32_t n = 0; n < TILE_ELEMENTS; n++) words[n] = 0;
    }
    return words;
}

void dst_written(uint32_t tile) {
    Registers& dst = *self->core->registers;
    dst.set[dst.math_half][tile] = true;
    if (dst.fp32) return;
    for (uint32_t& word : dst.words[dst.math_half][tile])
        if (!is_unset(word)) word = from_bf16(to_bf16(word));
}

void fail_unset(const char* operation, uint32_t word, uint32_t element, const char* of, uint32_t number) {
    uint32_t face = element / 256, r = face / 2 * 16 + element % 256 / 16, c = face % 2 * 16 + element % 16;
    fail("%s: element (%u, %u) of %s %u %s", operation, r, c, of, number,
         (word & 0xFFFF) == (UNDER_WAY & 0xFFFF) ? "is under way on the NoC: noc_async_read_barrier is missing"
                                                 : "was never written");
}

// --- unpacker ------------------------------------------------------------------------------------------------------
// A tile's words, in face order. `whole`: each element has to have been written; else what was not keeps its pattern.
void load(const char* operation, uint32_t cb, uint32_t tile, uint32_t* words, bool whole) {
    const CircularBuffer& of = cb_of(cb);
    const uint8_t* page = page_to_read(cb, tile);
    uint32_t element_bytes = of.format == DataFormat::Float16_b ? 2 : 4;
    if (of.page_bytes != TILE_ELEMENTS * element_bytes)
        fail("%s: pages of CB %u have %u bytes, a tile of %s %u", operation, cb, of.page_bytes,
             format_name(int(of.format)), TILE_ELEMENTS * element_bytes);
    if (element_bytes == 2) {
        auto halves = reinterpret_cast<const uint16_t*>(page);
        for (uint32_t n = 0; n < TILE_ELEMENTS; n++)
            words[n] = is_unset_half(halves[n]) ? uint32_t(halves[n]) << 16 | halves[n] : from_bf16(halves[n]);
    } else {
        __builtin_memcpy(words, page, TILE_ELEMENTS * 4);
    }
    if (whole) check_set(operation, words, "a tile of CB", cb);
}

// --- packer --------------------------------------------------------------------------------------------------------
void pack(uint32_t tile, uint32_t cb, bool in_order, uint32_t index) {
    pause();
    Registers& dst = registers();
    const Setup& now = setup("pack_tile");
    if (!dst.packing) fail("pack_tile outside tile_regs_wait .. tile_regs_release");
    in_reach("pack_tile", dst, tile);
    if (!dst.set[dst.pack_half][tile]) fail("pack_tile reads DST tile %u, which is not set", tile);
    const CircularBuffer& of = cb_of(cb);
    if (now.pack != int(of.format))
        fail("pack_tile: the packer is configured for %s, CB %u holds %s: pack_reconfig_data_format(%u) is missing",
             format_name(now.pack), cb, format_name(int(of.format)), cb);
    uint32_t* words = dst.words[dst.pack_half][tile];
    check_set("pack_tile", words, "DST tile", tile);
    uint8_t* page = page_to_pack(cb, in_order, index);
    if (of.format == DataFormat::Float16_b) {
        if (of.page_bytes != TILE_ELEMENTS * 2)
            fail("pack_tile: pages of CB %u have %u bytes, a tile 2048", cb, of.page_bytes);
        auto halves = reinterpret_cast<uint16_t*>(page);
        for (uint32_t n = 0; n < TILE_ELEMENTS; n++)
            halves[n] =
                to_bf16(now.pack_adds ? as_word(as_float(from_bf16(halves[n])) + as_float(words[n])) : words[n]);
    } else {
        if (of.page_bytes != TILE_ELEMENTS * 4)
            fail("pack_tile: pages of CB %u have %u bytes, a tile 4096", cb, of.page_bytes);
        auto out = reinterpret_cast<uint32_t*>(page);
        if (now.pack_adds)
            for (uint32_t n = 0; n < TILE_ELEMENTS; n++) out[n] = as_word(as_float(out[n]) + as_float(words[n]));
        else
            __builtin_memcpy(out, words, TILE_ELEMENTS * 4);
    }
}

}  // namespace emulation
