// What the headers under api/ call: the emulated machine's own interface, seen from a kernel. See machine/machine.h.
#pragma once
#include <cstddef>
#include <cstdint>

enum class DataFormat : std::uint8_t {
    Float32 = 0, Float16 = 1, Bfp8 = 2, Bfp4 = 3, Tf32 = 4, Float16_b = 5, Bfp8_b = 6, Bfp4_b = 7, Int32 = 8,
    UInt16 = 9, Lf8 = 10, Bfp2 = 11, Int8 = 14, Bfp2_b = 15, UInt32 = 24, UInt8 = 30, Invalid = 0xff,
};

namespace emulation {

constexpr int READER = 0, WRITER = 1, COMPUTE = 2, ROLES = 3;

// Arguments and memory of this core.
uint32_t* argument_at(int index, bool common);
void* l1_pointer(uint32_t address, uint32_t bytes);
uint32_t l1_address(const volatile void* pointer);
uint32_t semaphore_address(uint32_t id);
uint32_t coordinate(int which);  // 0, 1: logical x, y; 2, 3: x, y on the NoC
void pause();                    // a place where another kernel may go on

// Circular buffers.
void cb_reserve(uint32_t cb, uint32_t pages);
void cb_push(uint32_t cb, uint32_t pages);
void cb_wait(uint32_t cb, uint32_t pages);
void cb_pop(uint32_t cb, uint32_t pages);
bool cb_can_reserve(uint32_t cb, uint32_t pages);
bool cb_can_wait(uint32_t cb, uint32_t pages);
uint32_t cb_write_address(uint32_t cb);
uint32_t cb_read_address(uint32_t cb);

// Network on chip. An address: bits 0-35 within the node, 36-41 its x, 42-47 its y (multicasts: of the last corner;
// 48-53 and 54-59 of the first). Row 0 holds the DRAM banks.
constexpr uint32_t ADDRESS_BITS = 36, NODE_BITS = 6;
uint64_t page_address(uint32_t base, uint32_t page_bytes, uint32_t page, uint32_t offset, bool dram);
uint64_t bank_address(uint32_t bank, uint32_t address, bool dram);
void noc_read(uint64_t from, uint32_t to, uint32_t bytes);
void noc_write(uint32_t from, uint64_t to, uint32_t bytes);
void noc_multicast(uint32_t from, uint64_t to, uint32_t bytes, uint32_t receivers, bool to_self, int noc);
void noc_write_word(uint64_t to, uint32_t word);
void noc_multicast_word(const volatile uint32_t* from, uint64_t to, uint32_t receivers, bool to_self, int noc);
void noc_reads_done();
void noc_writes_done();  // left or arrived: nothing tells them apart
void noc_increments_done();
void semaphore_increment(uint64_t at, uint32_t by);
void semaphore_set(volatile uint32_t* at, uint32_t value);
void semaphore_wait(volatile uint32_t* at, uint32_t value, bool at_least);

// Setup of unpacker, FPU and packer.
void startup(uint32_t source_a, uint32_t source_b, uint32_t pack);
void reconfigure_a(int old_cb, uint32_t cb);
void reconfigure_b(int old_cb, uint32_t cb);
void reconfigure_pack(int old_cb, uint32_t cb);
void pack_accumulate(bool on);

// Destination registers.
void acquire();
void commit();
void wait_for_tiles();
void release();
void pack(uint32_t tile, uint32_t cb, bool in_order, uint32_t index);

// FPU. `transposed` bits: 1 the faces, 2 within the faces.
enum Binary : uint32_t { ADD, SUB, MUL };
enum Broadcast : uint32_t { FULL, COLUMN, ROW, SCALAR };
enum Pool : uint32_t { SUM, AVERAGE, MAXIMUM, MINIMUM };
enum Direction : uint32_t { ALONG_ROW, ALONG_COLUMN, WHOLE };
enum Reuse : uint32_t { NEITHER, AS_A, AS_B };
void copy_setup(uint32_t cb, uint32_t transposed);
void copy(uint32_t cb, uint32_t tile, uint32_t dst);
void transpose_setup(uint32_t cb);
void transpose(uint32_t cb, uint32_t tile, uint32_t dst);
void broadcast_setup(uint32_t cb, Broadcast shape);
void broadcast(uint32_t cb, uint32_t tile, uint32_t dst, Broadcast shape);
void matmul_setup(uint32_t in0, uint32_t in1, uint32_t transposed, uint32_t columns, uint32_t rows, bool block);
void matmul(uint32_t in0, uint32_t in1, uint32_t tile0, uint32_t tile1, uint32_t dst);
void matmul_blocks(uint32_t in0, uint32_t in1, uint32_t tile0, uint32_t tile1, uint32_t dst, uint32_t transposed,
                   uint32_t columns, uint32_t rows, uint32_t inner);
void binary_setup(Binary what, Broadcast shape, uint32_t in0, uint32_t in1, bool accumulate);
void binary(Binary what, Broadcast shape, uint32_t in0, uint32_t in1, uint32_t tile0, uint32_t tile1, uint32_t dst,
            uint32_t row);
void reuse_setup(Binary what, Reuse dst_is, uint32_t cb);
void reuse(Binary what, Reuse dst_is, uint32_t cb, uint32_t tile, uint32_t dst);
void reduce_setup(Pool what, Direction along, uint32_t cb, uint32_t scaler, uint32_t out);
void reduce(Pool what, Direction along, uint32_t cb, uint32_t scaler, uint32_t tile, uint32_t scaler_tile,
            uint32_t dst);
void reduce_done();

// SFPU. Each operation names the init it needs; `variant`: template arguments that init and operation share.
void sfpu_setup(const char* init, uint32_t variant = 0);
enum Unary : uint32_t {
    ABS, CBRT, CEIL, COS, ERF, ERFC, EXP, EXP2, EXPM1, EQZ, FLOOR, FRAC, GELU, GEZ, GTZ, IDENTITY, LEZ, LOG, LOG1P,
    LOGICAL_NOT, LTZ, NEGATIVE, NEZ, RECIPROCAL, RELU, RSQRT, SIGMOID, SIGN, SIGNBIT, SILU, SIN, SOFTSIGN, SQRT,
    SQUARE, TAN, TANH, TRUNC, ACOS, ACOSH, ASIN, ASINH, ATAN, ATANH, COSH, SINH,
    // with one number
    ADD_NUMBER, SUB_NUMBER, RSUB_NUMBER, MUL_NUMBER, DIV_NUMBER, EQ_NUMBER, NE_NUMBER, LT_NUMBER, GT_NUMBER,
    LE_NUMBER, GE_NUMBER, MAX_NUMBER, MIN_NUMBER, POWER_NUMBER, LEAKY_RELU, RELU_MAX, RELU_MIN, HEAVISIDE,
    SOFTPLUS_OF,
};
enum Pair : uint32_t {
    ADD_PAIR, SUB_PAIR, RSUB_PAIR, MUL_PAIR, DIV_PAIR, POWER_PAIR, MAX_PAIR, MIN_PAIR, EQ_PAIR, NE_PAIR, LT_PAIR,
    GT_PAIR, LE_PAIR, GE_PAIR,
};
enum Bits : uint32_t { AND, OR, XOR, NOT };
void sfpu_unary(const char* operation, const char* init, Unary what, uint32_t dst, uint32_t number = 0,
                uint32_t variant = 0);
void sfpu_clamp(uint32_t dst, uint32_t low, uint32_t high);
void sfpu_pair(const char* operation, const char* init, Pair what, uint32_t a, uint32_t b, uint32_t out);
void sfpu_bits(const char* operation, const char* init, Bits what, uint32_t dst, uint32_t mask);
void sfpu_pair_bits(const char* operation, Bits what, uint32_t a, uint32_t b, uint32_t out);
void sfpu_fill(const char* operation, uint32_t dst, uint32_t word);
void sfpu_where(uint32_t condition, uint32_t yes, uint32_t no, uint32_t out);
void sfpu_copy(uint32_t from, uint32_t to);
void sfpu_broadcast(const char* operation, Binary what, Broadcast shape, uint32_t data, uint32_t vector);

}  // namespace emulation
