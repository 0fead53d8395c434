// The SFPI compiler's helpers for the replay buffer, written with the wheel's own REPLAY instruction.
#pragma once
#include <stdint.h>

namespace lltt {
enum ExecBool : bool { NoExec = false, Exec = true };

__attribute__((always_inline)) constexpr inline uint32_t replay_insn(uint32_t start, uint32_t count) {
    return TT_OP_REPLAY(start, count, 0, 0);
}
// Into the instruction buffer of this processor, by its address: this header may come before the wheel declares its name.
__attribute__((always_inline)) inline void issue(uint32_t word) { *(volatile uint32_t*)INSTRN_BUF_BASE = word; }

__attribute__((always_inline)) inline void replay(uint32_t start, uint32_t count) { issue(replay_insn(start, count)); }

// The next `count` instructions are stored from slot `start` on, and with Exec also executed.
template <ExecBool EXECUTE = NoExec> __attribute__((always_inline)) inline void record(uint32_t start, uint32_t count) {
    issue(TT_OP_REPLAY(start, count, EXECUTE, 1));
}
}  // namespace lltt
