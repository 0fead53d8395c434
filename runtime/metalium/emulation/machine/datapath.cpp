// Tile times tile on the matrix unit's fixed-point lanes.
#include "datapath.h"

#include "machine.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FAST __attribute__((target_clones("avx2", "default")))
#else
#define FAST
#endif

namespace emulation {

struct Lanes {  // SrcA of a pass: a row of 32 columns a lane
    int32_t slice[32][32], at[32][32];  // signed slices; exponents, far below all where there is nothing
};

constexpr int32_t NOTHING = -4096;

// The sum of eight lanes for 32 columns.
FAST static void sum_lanes(const Lanes& a, uint32_t k, const int32_t* slice, const int32_t* at, int32_t pass_at,
                           int32_t* sums, int32_t* tops) {
    int32_t exponents[8][32];
    for (int c = 0; c < 32; c++) tops[c] = 0;
    for (uint32_t lane = 0; lane < 8; lane++)
        for (int c = 0; c < 32; c++) {
            int32_t sum = a.at[k + lane][c] + at[lane] + pass_at;
            exponents[lane][c] = sum;
            tops[c] = sum > tops[c] ? sum : tops[c];
        }
    for (int c = 0; c < 32; c++) sums[c] = 0;
    for (uint32_t lane = 0; lane < 8; lane++)
        for (int c = 0; c < 32; c++) {
            int32_t product = a.slice[k + lane][c] * slice[lane];
            int32_t magnitude = product < 0 ? -product : product;
            int32_t shift = tops[c] - exponents[lane][c];
            shift = shift > 29 ? 29 : shift;
            magnitude = ((magnitude << 1) + int32_t(1u << shift)) >> (shift + 1);
            sums[c] += product < 0 ? -magnitude : magnitude;
        }
}

void multiply_tiles(const uint32_t* in0, const uint32_t* in1, uint32_t* out, int passes, bool wide, bool quirk) {
    static Lanes a;  // one thread runs all kernels
    for (int pass = 0; pass < passes; pass++) {
        for (uint32_t k = 0; k < 32; k++)
            for (uint32_t c = 0; c < 32; c++) {
                uint32_t word = in1[place(k, c)];
                int32_t slice = slice_a(word, pass);
                a.slice[k][c] = word >> 31 ? -slice : slice;
                a.at[k][c] = exponent(word) ? exponent(word) : NOTHING;
            }
        for (uint32_t r = 0; r < 32; r++)
            for (uint32_t face = 0; face < 32; face += 16) {  // sixteen lanes an instruction
                int32_t slice[16], at[16], any = 0;
                for (uint32_t lane = 0; lane < 16; lane++) {
                    uint32_t word = in0[place(r, face + lane)];
                    int32_t value = slice_b(word, pass);
                    any |= exponent(word);
                    slice[lane] = word >> 31 ? -value : value;
                    at[lane] = exponent(word) ? exponent(word) : NOTHING;
                }
                if (!any) continue;
                int32_t sums[2][32], tops[2][32];
                for (uint32_t half = 0; half < 2; half++)
                    sum_lanes(a, face + 8 * half, slice + 8 * half, at + 8 * half, pass_exponent(pass), sums[half],
                              tops[half]);
                for (uint32_t c = 0; c < 32; c++) {
                    Term terms[2];
                    for (int half = 0; half < 2; half++) {
                        int32_t sum = tops[half][c] > 0 ? sums[half][c] : 0;
                        terms[half] = {sum < 0, tops[half][c], (sum < 0 ? -sum : sum) << 13};
                    }
                    uint32_t& to = out[place(r, c)];
                    to = accumulate(to, terms[0], terms[1], wide, quirk);
                }
            }
    }
}

}  // namespace emulation
