// The matrix unit's arithmetic, bit for bit as Tenstorrent's simulator models it. It is fixed-point: a pass takes five
// bits of SrcA's and seven of SrcB's significand; the products of eight lanes are aligned to the largest exponent among
// them, which rounds the others, and summed; two such sums and what DST holds are aligned and summed again, and the
// result is rounded into DST. HiFi4 makes four passes for the four pairs of slices, LoFi only the first.  What the unit does
// was learnt from Tenstorrent's simulator (ttsim) and from wolfpine's description of it, and the results agree with both.
#pragma once
#include <cstdint>
#include <initializer_list>

namespace emulation {

struct Term {  // (-1)^sign * significand * 2^(exponent - 127 - 23)
    int32_t sign, exponent, significand;
};

// Exponent of a pass's products: the bias, and by how much its slices lie below the first.
inline int32_t pass_exponent(int pass) { return -127 - (pass & 1 ? 5 : 0) - (pass & 2 ? 7 : 0); }

inline int32_t significand11(uint32_t word) { return word & 0x7F800000u ? int32_t(word >> 13 & 0x3FF) | 0x400 : 0; }
inline int32_t slice_a(uint32_t word, int pass) {
    int32_t all = significand11(word);
    return pass & 1 ? all >> 1 & 0x1F : all >> 6;
}
inline int32_t slice_b(uint32_t word, int pass) {
    int32_t all = significand11(word);
    return pass & 2 ? (all & 0xF) << 3 : all >> 4;
}
inline int32_t exponent(uint32_t word) { return int32_t(word >> 23 & 0xFF); }

// DST's word plus two terms. `quirk`: Wormhole's count of leading bits is off by 27 where the sum is exactly -1.
inline uint32_t accumulate(uint32_t dst, const Term& first, const Term& second, bool wide, bool quirk) {
    int32_t sign = int32_t(dst >> 31), own = exponent(dst);
    int64_t sum = own ? int64_t((dst & 0x7FFFFFu) | 0x800000u) : 0;
    int32_t top = own > first.exponent ? own : first.exponent;
    if (second.exponent > top) top = second.exponent;
    if (top <= 0) return 0;
    if (own < top) sum = top - own < 31 ? (sum + (int64_t(1) << (top - own - 1))) >> (top - own) : 0;
    if (!wide) sum = (sum + (1 << 12)) & ~int64_t(0x1FFF);
    for (const Term* term : {&first, &second}) {
        int64_t add = term->significand;
        int32_t shift = top - term->exponent;
        if (shift > 0) add = shift < 31 ? (add + (int64_t(1) << (shift - 1)) - term->sign) >> shift : 0;
        if (!wide) add = (add + (1 << 12) - term->sign) & ~int64_t(0x1FFF);
        sum += term->sign == sign ? add : -add;
    }
    if (sum < 0) sign ^= 1, sum = -sum;
    if (!sum) return 0;
    int32_t left = __builtin_clz(uint32_t(sum)) - 8;  // to 24 bits
    if (quirk && sign && sum == 1) left -= 27;
    top -= left;
    if (!wide) left -= 16;
    if (left < 0)
        sum = (sum + (int64_t(1) << (-left - 1))) >> -left;
    else
        sum <<= left;
    if (!wide) sum <<= 16;
    if (sum & 0x1000000) top++;
    if (top <= 0) return 0;
    if (top >= 255) return uint32_t(sign) << 31 | 0x7F800000u;
    return uint32_t(sign) << 31 | uint32_t(top) << 23 | (uint32_t(sum) & 0x7FFFFFu);
}

// One product of a pass, for products element by element.
inline Term product(uint32_t a, uint32_t b, int pass) {
    int32_t at = exponent(a) + exponent(b) + pass_exponent(pass);
    if (!exponent(a) || !exponent(b) || at <= 0) return {0, 0, 0};
    int32_t value = slice_a(a, pass) * slice_b(b, pass) << 13;
    return {value ? int32_t((a ^ b) >> 31) : 0, at, value};
}

// A sum of two operands, in eleven bits.
inline Term sum_of(uint32_t a, uint32_t b) {
    if (!exponent(a)) a = 0;
    if (!exponent(b)) b = 0;
    if ((a & 0x7FFFFFFFu) < (b & 0x7FFFFFFFu)) {
        uint32_t swapped = a;
        a = b, b = swapped;
    }
    int32_t shift = exponent(a) - exponent(b);
    if (shift > 12) shift = 12;
    int32_t small = shift ? (significand11(b) + (1 << (shift - 1))) >> shift : significand11(b);
    int32_t value = (a ^ b) >> 31 ? significand11(a) - small : significand11(a) + small;
    return {int32_t(a >> 31), exponent(a), value << 13};
}

// in0 [32, 32] times in1 [32, 32], added to out; words of rows, of columns, in face order (see `place`).
void multiply_tiles(const uint32_t* in0, const uint32_t* in1, uint32_t* out, int passes, bool wide, bool quirk);

}  // namespace emulation
