// Which rows of a tile have what of a spread left factor: see `rows.h`.  For the writer and the compute kernel.
#pragma once

#include <cstdint>

constexpr uint32_t LANES = 8;
constexpr uint32_t LOST_ROW = LANES;
constexpr uint32_t PLAIN_ROW = LOST_ROW + 1;
