// Every core's units of an array into the same array on every core.
//
//     core 0  [a . . .]            [a b c d]
//     core 1  [. b . .]  --NoC-->  [a b c d]      each core writes its part into every L1 at one address
//     core 2  [. . c .]            [a b c d]
//
// Two meetings a round.  At `free` all cores have done whatever read or wrote the memory of the gathered array before,
// so writing into it disturbs nobody; at `landed` all parts have arrived.  The semaphores only count up: a core comes to
// meeting n + 1 after it has left meeting n, which it leaves after all have come to it; so `n * cores` arrivals mean
// that every core has come n times, and no reset, which could race, is needed.  A launch sets them to zero again.
#pragma once

#include "dram.h"

// The cores of the program and the runtime argument at which their NoC coordinates begin: x, y of core 0, of core 1, ...
struct Cores {
    uint32_t count, self, coordinates;

    FORCE_INLINE uint64_t place(uint32_t core, uint32_t address) const {
        return get_noc_addr(
            get_arg_val<uint32_t>(coordinates + 2 * core), get_arg_val<uint32_t>(coordinates + 2 * core + 1), address);
    }

    // The cores in turn, each core beginning with its right neighbour, so that they do not all write to one.
    FORCE_INLINE uint32_t neighbour(uint32_t number) const {
        const uint32_t core = self + 1 + number;
        return core < count ? core : core - count;
    }
};

NOINLINE inline void meet(const Cores& cores, uint32_t semaphore, uint32_t round) {
    const uint32_t address = get_semaphore(semaphore);
    for (uint32_t number = 0; number < cores.count; ++number) {
        noc_semaphore_inc(cores.place(cores.neighbour(number), address), 1);
    }
    noc_async_atomic_barrier();
    noc_semaphore_wait_min(words_at(address), round * cores.count);
}

// Elements first ... of `source` to the same elements of `out`, on every core.
NOINLINE inline void gather(
    const Cores& cores, const Array& out, const Array& source, uint32_t first, uint32_t count, uint32_t bounce) {
    for (uint32_t number = 0; count > 0 && number < cores.count; ++number) {
        send_words(source.at(first), cores.place(cores.neighbour(number), out.at(first)), count, bounce);
    }
    noc_async_write_barrier();
}
