// An emulation of a Tensix card, enough of it to run TT-Metalium kernels under g++ and to say what is wrong with them.
//
//   kernels (reader, compute, writer; one shared object each)
//      |  api/**: the headers of TT-Metalium's device API by their real paths and names, thin, over calls.h
//   machine/: scheduler.cpp        the kernels as threads of one OS thread, in an order drawn from a seed
//             circular_buffers.cpp queues of pages in L1, who may do what with them
//             noc.cpp              reads, writes, multicasts, semaphores; data lands at the barrier, not before
//             tiles.cpp            unpacker, destination registers, packer: formats and who configured them
//             fpu.cpp sfpu.cpp     operations on tiles; datapath.cpp: the matrix unit's arithmetic
//             guards.cpp           faults and endless loops of kernels
//             program.cpp          what the host calls, through ctypes (../../emulated.py)
//
// Emulated: L1 of each core at its real size and addresses; DRAM in interleaved banks; circular buffers with each
// role's own pointers; destination registers as tiles of four 16x16 faces, whole or in halves; what SrcA and SrcB keep
// of an f32 (numerics.h) and how the matrix unit sums (datapath.h); the packer's rounding; denormals as zeros; the SFPU
// in f32 by the C library.
// Every mistake that hardware answers with wrong numbers or a hang is an error with core, kernel and line: pages not
// reserved, not waited for, left over; two producers or consumers; tiles outside a buffer; elements never written or
// still under way on the NoC; registers out of range, unset, or used outside acquire .. commit; an operation under
// another one's init or data format; transfers outside allocations or misaligned; deadlock; transfers not waited for.
//
// Not emulated: time; the polynomials of the SFPU; the FPU's reductions bit for bit; block floats, 8 and 16 bit
// integers; tiles that are not 32x32; Ethernet, PCIe, remote circular buffers. The three Tensix threads of a compute
// kernel run as one. A kernel's file-scope variables are shared by all cores. Plain loads and stores are not traced:
// what they leave out is found when the data is used, by the pattern in fresh memory.
#pragma once
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../calls.h"

namespace emulation {

constexpr uint32_t CBS = 32, SEMAPHORES = 16, TILE_ELEMENTS = 1024, MAX_DST_TILES = 16;
constexpr uint32_t SEMAPHORE_BYTES = 16;
constexpr size_t STACK_BYTES = 128 << 10, GUARD_BYTES = 4096;

// Fresh memory: as f32 and as a pair of bf16 a NaN that no arithmetic makes.
constexpr uint32_t UNWRITTEN = 0xFFA5FFA5u, UNDER_WAY = 0xFFB5FFB5u;
inline bool is_unset(uint32_t word) { return (word & 0xFFAFFFEFu) == 0xFFA5FFA5u; }  // either, as RISC-V quiets it too
inline bool is_unset_half(uint16_t half) { return (half & 0xFFAFu) == 0xFFA5u; }

struct CircularBuffer {
    bool there = false;
    uint32_t address = 0, page_bytes = 0, pages = 0;
    DataFormat format = DataFormat::Invalid;
    bool unpack_to_dest = false;
    bool alone = true;                          // no other CB lies in the same memory
    uint32_t received = 0, acked = 0;           // pages ever pushed, ever popped
    uint32_t reserved = 0, packed = 0;          // by the producer since its last push
    uint32_t waited = 0;                        // by the consumer since its last pop
    int producer = -1, consumer = -1;           // roles, once known
    uint32_t write_page[ROLES] = {}, read_page[ROLES] = {};  // each RISC-V has its own pointers
    uint32_t available() const { return received - acked; }
    uint32_t free_pages() const { return pages - available(); }
};

// What unpacker, FPU and packer were last set up for. An operation needs its own setup: the hardware does not check.
struct Setup {
    const char* fpu = nullptr;      // name of the operation
    uint32_t fpu_variant = 0;       // transposition, broadcast: what the init and the operation have to agree on
    bool accumulates = false;
    const char* sfpu = nullptr;
    uint32_t sfpu_variant = 0;
    int source_a = -1, source_b = -1, pack = -1;  // formats; see format_of
    bool pack_adds = false;
};

struct Registers {
    enum class Phase : uint8_t { Idle, Math, Packing };
    bool fp32 = false, full_sync = false, approximate = false;
    int fidelity = 4;
    uint32_t tiles = 4;                       // in reach at a time
    uint32_t halves = 2;
    uint32_t math_half = 0, pack_half = 0, committed = 0;
    bool acquired = false, packing = false;
    bool set[2][MAX_DST_TILES] = {};
    alignas(64) uint32_t words[2][MAX_DST_TILES][TILE_ELEMENTS];
};

struct Core;

struct Transfer {  // on its way: lands at the barrier
    uint8_t* to;
    const uint8_t* from;
    uint32_t bytes;
    Core* at;                      // whose kernels may be waiting for it
    std::vector<uint8_t> seen;     // a write's source when it was issued
};

enum class Wait : uint8_t { None, Pages, Space, SemaphoreEqual, SemaphoreAtLeast };

struct Fiber {
    ucontext_t context;
    uint8_t* stack = nullptr;
    Core* core = nullptr;
    int role = 0;
    void (*entry)() = nullptr;
    const char* kernel = nullptr;
    std::vector<uint32_t> arguments, common_arguments;
    std::vector<Transfer> reads, writes;
    uint32_t increments = 0;       // of semaphores, not waited for
    Wait wait = Wait::None;
    uint32_t wait_cb = 0, wait_value = 0;
    const volatile uint32_t* wait_at = nullptr;
    void* frame = nullptr;         // where it stopped
    bool done = false;
    int noc() const { return role == READER ? 0 : 1; }
};

struct Region {
    uint32_t address, bytes;
};

struct DramBuffer {
    uint32_t address, bank_bytes;
    std::vector<uint8_t> bytes;    // bank after bank
};

struct Core {
    uint32_t x = 0, y = 0, noc_x = 0, noc_y = 0;
    uint8_t* l1 = nullptr;
    CircularBuffer cbs[CBS];
    Fiber fibers[ROLES];
    Registers* registers = nullptr;
    Setup setup;
    std::vector<Region> regions;   // of the program: circular buffers, semaphores
};


struct Machine {
    bool blackhole = false;
    uint32_t width = 8, height = 8, banks = 12, l1_bytes = 0, semaphore_base = 0;
    uint32_t dram_read_alignment = 32, dram_write_alignment = 16, l1_alignment = 16;
    std::vector<Core> cores;
    uint8_t* l1 = nullptr;
    std::vector<Region> regions;   // of tensors, on all cores
    std::vector<DramBuffer> dram;  // by address
    Core* by_noc[64][64] = {};     // [x][y]
    std::vector<Fiber*> ready, running;
    ucontext_t scheduler;
    uint64_t random = 1, calls = 0;
    uint32_t switch_mask = 7;
    std::string error;

    DramBuffer* dram_buffer(uint32_t address);
    uint8_t* dram_at(uint32_t bank, uint32_t address, uint32_t bytes);
    uint8_t* l1_at(Core& core, uint32_t address, uint32_t bytes);
};

extern Machine* active;
inline Machine& machine() { return *active; }
extern Fiber* self;

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void fail_at(void* frame, void* at, const char* format, ...) __attribute__((format(printf, 3, 4)));
std::string trace(void* frame, void* at = nullptr);
void guard();
void unguard();
void yield();
void wait_until(Wait wait, uint32_t cb, const volatile uint32_t* at, uint32_t value);
void wake(Core& core);

CircularBuffer& cb_of(uint32_t cb);
uint8_t* page_to_read(uint32_t cb, uint32_t tile);
uint8_t* page_to_pack(uint32_t cb, bool in_order, uint32_t index);
void poison(uint8_t* at, uint32_t bytes, uint32_t word);

Registers& registers();
uint32_t* dst_tile(uint32_t tile, const char* operation, bool must_be_set);
void dst_written(uint32_t tile);
void setup_fpu(const char* name, uint32_t variant, bool accumulates = false);
void need_fpu(const char* operation, const char* name, uint32_t variant);
void need_sources(const char* operation, int cb_a, int cb_b);
void load(const char* operation, uint32_t cb, uint32_t tile, uint32_t* words, bool whole);
[[noreturn]] void fail_unset(const char* operation, uint32_t word, uint32_t element, const char* of, uint32_t number);
inline void check_set(const char* operation, const uint32_t* words, const char* of, uint32_t number) {
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++)
        if (is_unset(words[n])) fail_unset(operation, words[n], n, of, number);
}

// Tiles of f32 in face order: element (r, c) at place(r, c).
inline uint32_t place(uint32_t r, uint32_t c) { return (r / 16 * 2 + c / 16) * 256 + r % 16 * 16 + c % 16; }
inline float as_float(uint32_t word) { float f; __builtin_memcpy(&f, &word, 4); return f; }
inline uint32_t as_word(float f) { uint32_t w; __builtin_memcpy(&w, &f, 4); return w; }

}  // namespace emulation
