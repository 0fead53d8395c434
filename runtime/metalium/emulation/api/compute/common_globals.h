// What every compute kernel sees. One thread stands for unpacker, FPU and packer.
#pragma once
#include <cstdint>

#include "api/runtime_args.h"
#include "calls.h"

#define ALWI inline __attribute__((always_inline))
#define MATH(...) __VA_ARGS__
#define PACK(...) __VA_ARGS__
#define UNPACK(...) __VA_ARGS__

namespace ckernel {

enum class VectorMode : std::uint8_t { None = 0, R = 1, C = 2, RC = 4, RC_custom = 6, Invalid = 0xFF };
enum class ReduceDim : std::uint8_t { REDUCE_ROW, REDUCE_COL, REDUCE_SCALAR };
enum class PoolType : std::uint8_t { SUM, AVG, MAX, MIN };
enum class EltwiseBinaryType : std::uint8_t { ELWMUL, ELWDIV, ELWADD, ELWSUB, ELWLESS };
enum class EltwiseBinaryReuseDestType { NONE = 0, DEST_TO_SRCA = 1, DEST_TO_SRCB = 2 };
enum class DstSync : std::uint8_t { SyncHalf = 0, SyncFull = 1 };
enum class BroadcastType : std::uint8_t { NONE = 0x0, COL = 0x1, ROW = 0x2, SCALAR = 0x3 };
enum class DstRoundingMode : std::uint8_t { Default, RoundNearestEven };

}  // namespace ckernel

using namespace ckernel;

namespace emulation {
constexpr Broadcast broadcast_of(BroadcastType type) { return Broadcast(type); }
constexpr Binary binary_of(EltwiseBinaryType type) {
    return type == EltwiseBinaryType::ELWADD ? ADD : type == EltwiseBinaryType::ELWSUB ? SUB : MUL;
}
}  // namespace emulation
