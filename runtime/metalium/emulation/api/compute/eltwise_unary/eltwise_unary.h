// What kernels of functions of one tile include.
#pragma once
#include "api/compute/common.h"
#include "api/compute/tile_move_copy.h"
