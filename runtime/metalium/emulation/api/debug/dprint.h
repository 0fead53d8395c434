// Prints of kernels are not emulated.
#pragma once
#define DPRINT(...)
