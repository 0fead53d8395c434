// Put before every source: the .ttinsn directive of Tenstorrent's assembler, which issues a Tensix instruction. The word is
// stored rotated left by two, so that its low bits are not those of a RISC-V instruction.
#pragma once
#ifndef __ASSEMBLER__
__asm__(".macro .ttinsn x\n\t.word ((\\x) << 2) | (((\\x) >> 30) & 3)\n\t.endm\n");
#endif
