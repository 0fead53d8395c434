// What each of the wheel's SFPU headers is replaced by: the environment writes one forwarding file per name it lists.
#pragma once
#include "broadcast.h"
#include "elementwise.h"
#include "roots.h"
#include "transcendental.h"
#include "trigonometry.h"
#include "two_tiles.h"
#include "unsupported.h"
