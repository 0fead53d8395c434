// Assertions of kernels are not emulated.
#pragma once
#define ASSERT(...)
