// Found ahead of the wheel's header of this name. Before its version 13 gcc takes static_assert(false) amiss even in a template that nothing uses; this header has one.
#pragma once
#pragma push_macro("static_assert")
#define static_assert(...)
#include_next "api/core_local_mem.h"
#pragma pop_macro("static_assert")
