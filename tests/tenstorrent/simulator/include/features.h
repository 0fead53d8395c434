// libstdc++ was configured for glibc; the C library here is picolibc.
#pragma once
#include <sys/features.h>
#define __GLIBC_PREREQ(major, minor) 0
