// Whole numbers as the spec means them, and floats as whole numbers: the data-movement cores have no FPU.
#pragma once

#include <cstdint>

constexpr uint32_t SIGN_BIT = 0x80000000;
constexpr uint32_t INFINITY_BITS = 0x7f800000;
constexpr uint32_t NAN_BITS = 0x7fc00000;
constexpr uint32_t FRACTION_BITS = 23;
constexpr uint32_t EXPONENT_BIAS = 127;
constexpr uint32_t LEADING_BIT = 31;
constexpr uint32_t EXTRA_BITS = LEADING_BIT - FRACTION_BITS;  // of a whole number's 32 that a float's fraction lacks

// Quotient and rest that round down: -1 // 4 = -1, -1 % 4 = 3.
constexpr int32_t floor_div(int32_t a, int32_t b) {
    const int32_t quotient = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

constexpr int32_t floor_mod(int32_t a, int32_t b) { return a - floor_div(a, b) * b; }

// base to the power of a whole number that is not negative.
constexpr int32_t whole_power(int32_t base, int32_t exponent) {
    int32_t power = 1;
    for (int32_t i = 0; i < exponent; ++i) {
        power *= base;
    }
    return power;
}

constexpr int32_t larger_whole(int32_t a, int32_t b) { return a > b ? a : b; }
constexpr int32_t smaller_whole(int32_t a, int32_t b) { return a < b ? a : b; }

// The bits of a whole number as a float, rounded to the nearest, ties to even.
inline uint32_t float_bits(int32_t value) {
    if (value == 0) {
        return 0;
    }
    const uint32_t sign = value < 0 ? SIGN_BIT : 0;
    uint32_t magnitude = value < 0 ? 0u - static_cast<uint32_t>(value) : static_cast<uint32_t>(value);
    uint32_t exponent = EXPONENT_BIAS + LEADING_BIT;
    while ((magnitude & SIGN_BIT) == 0) {  // the leading bit to the top
        magnitude <<= 1;
        --exponent;
    }
    const uint32_t kept = magnitude >> EXTRA_BITS;
    const uint32_t rest = magnitude << (LEADING_BIT + 1 - EXTRA_BITS);
    const uint32_t up = rest > SIGN_BIT || (rest == SIGN_BIT && (kept & 1)) ? 1 : 0;
    // The leading bit is not stored; a carry out of the fraction raises the exponent as it should.
    return sign | ((exponent << FRACTION_BITS) + (kept & ~(1u << FRACTION_BITS)) + up);
}

constexpr bool is_nan(uint32_t bits) { return (bits & ~SIGN_BIT) > INFINITY_BITS; }

// A whole number that orders as the float does; -0 is 0.
constexpr int32_t rank_of(uint32_t bits) {
    return bits == SIGN_BIT ? 0 : static_cast<int32_t>(bits & SIGN_BIT ? bits ^ ~SIGN_BIT : bits);
}
