// Plain objects for what the wheel ships only as link-time-optimisation bytecode of another compiler.
#include <stdint.h>
#include "internal/risc_attribs.h"

extern "C" void wzerorange(uint32_t* from, uint32_t* end) {
    for (; from < end; from++) *(volatile uint32_t*)from = 0;
}

void l1_to_local_mem_copy(uint32_t* to, uint32_t tt_l1_ptr* from, L1WordCount words) {
    for (int32_t i = 0; i < (int32_t)words; i++) ((volatile uint32_t*)to)[i] = ((volatile uint32_t*)from)[i];
}

// volatile: or the compiler turns each loop into a call of the function it stands in
extern "C" void* memset(void* to, int byte, unsigned long bytes) {
    volatile unsigned char* p = (volatile unsigned char*)to;
    while (bytes--) *p++ = byte;
    return to;
}
extern "C" void* memcpy(void* to, const void* from, unsigned long bytes) {
    volatile unsigned char* p = (volatile unsigned char*)to;
    const unsigned char* q = (const unsigned char*)from;
    while (bytes--) *p++ = *q++;
    return to;
}
extern "C" int __cxa_atexit(void (*)(void*), void*, void*) { return 0; }
extern "C" void exit(int) {
    for (;;);
}
