// The host's libstdc++ headers serve the RISC-V kernels; what the host has and the kernel does not is switched off.
#pragma once
#include_next <bits/c++config.h>
#undef _GLIBCXX_HAS_GTHREADS
#undef _GLIBCXX_HAVE_TLS
#undef _GLIBCXX_USE_C99_STDIO
#undef _GLIBCXX_HAVE_LINUX_FUTEX
