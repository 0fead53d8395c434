// Circular buffers: pages in L1 between one producer and one consumer.
#include <cstring>

#include "machine.h"

namespace emulation {

static const char* const ROLE_NAMES[] = {"reader", "writer", "compute"};

CircularBuffer& cb_of(uint32_t cb) {
    if (cb >= CBS) fail("CB %u: there are %u", cb, CBS);
    CircularBuffer& of = self->core->cbs[cb];
    if (!of.there) fail("CB %u is not in the program on this core", cb);
    return of;
}

static CircularBuffer& produced(uint32_t cb, const char* call) {
    CircularBuffer& of = cb_of(cb);
    if (of.producer < 0) of.producer = self->role;
    if (of.producer != self->role)
        fail("%s(%u): race, the %s kernel is its producer already", call, cb, ROLE_NAMES[of.producer]);
    return of;
}

static CircularBuffer& consumed(uint32_t cb, const char* call) {
    CircularBuffer& of = cb_of(cb);
    if (of.consumer < 0) of.consumer = self->role;
    if (of.consumer != self->role)
        fail("%s(%u): race, the %s kernel is its consumer already", call, cb, ROLE_NAMES[of.consumer]);
    return of;
}

void poison(uint8_t* at, uint32_t bytes, uint32_t word) {
    if (reinterpret_cast<uintptr_t>(at) % 4 == 0 && bytes % 4 == 0) {
        auto words = reinterpret_cast<uint32_t*>(at);
        for (uint32_t n = 0; n < bytes / 4; n++) words[n] = word;
    } else {
        for (uint32_t n = 0; n < bytes; n++) at[n] = uint8_t(word >> reinterpret_cast<uintptr_t>(at + n) % 4 * 8);
    }
}

void cb_reserve(uint32_t cb, uint32_t pages) {
    pause();
    CircularBuffer& of = produced(cb, "cb_reserve_back");
    if (pages > of.pages) fail("cb_reserve_back(%u, %u): it holds %u pages", cb, pages, of.pages);
    wait_until(Wait::Space, cb, nullptr, pages);
    if (pages > of.reserved) of.reserved = pages;
}

void cb_push(uint32_t cb, uint32_t pages) {
    pause();
    CircularBuffer& of = produced(cb, "cb_push_back");
    if (pages > of.reserved) fail("cb_push_back(%u, %u): %u pages are reserved", cb, pages, of.reserved);
    uint32_t& at = of.write_page[self->role];
    if (at + pages > of.pages)
        fail("cb_push_back(%u, %u): from page %u of %u, the write pointer runs past the end", cb, pages, at, of.pages);
    if (self->role == COMPUTE && of.packed > pages)
        fail("cb_push_back(%u, %u): %u pages were packed", cb, pages, of.packed);
    at = (at + pages) % of.pages;
    of.reserved -= pages;
    of.packed = 0;
    of.received += pages;
    wake(*self->core);
}

void cb_wait(uint32_t cb, uint32_t pages) {
    pause();
    CircularBuffer& of = consumed(cb, "cb_wait_front");
    if (pages > of.pages) fail("cb_wait_front(%u, %u): it holds %u pages", cb, pages, of.pages);
    wait_until(Wait::Pages, cb, nullptr, pages);
    if (pages > of.waited) of.waited = pages;
}

void cb_pop(uint32_t cb, uint32_t pages) {
    pause();
    CircularBuffer& of = consumed(cb, "cb_pop_front");
    if (pages > of.waited) fail("cb_pop_front(%u, %u): %u pages were waited for", cb, pages, of.waited);
    uint32_t& at = of.read_page[self->role];
    if (at + pages > of.pages)
        fail("cb_pop_front(%u, %u): from page %u of %u, the read pointer runs past the end", cb, pages, at, of.pages);
    // The packer writes whole pages, so nothing may count on what a popped one held; other producers may have put
    // there once what no push changes.
    if (of.alone && of.producer == COMPUTE)
        poison(self->core->l1 + of.address + at * of.page_bytes, pages * of.page_bytes, UNWRITTEN);
    at = (at + pages) % of.pages;
    of.waited -= pages;
    of.acked += pages;
    wake(*self->core);
}

bool cb_can_reserve(uint32_t cb, uint32_t pages) {
    yield();
    return produced(cb, "cb_pages_reservable_at_back").free_pages() >= pages;
}

bool cb_can_wait(uint32_t cb, uint32_t pages) {
    yield();
    return consumed(cb, "cb_pages_available_at_front").available() >= pages;
}

uint32_t cb_write_address(uint32_t cb) {
    CircularBuffer& of = cb_of(cb);
    return of.address + of.write_page[self->role] * of.page_bytes;
}

uint32_t cb_read_address(uint32_t cb) {
    CircularBuffer& of = cb_of(cb);
    return of.address + of.read_page[self->role] * of.page_bytes;
}

// The unpacker's view: a tile among those waited for.
uint8_t* page_to_read(uint32_t cb, uint32_t tile) {
    CircularBuffer& of = consumed(cb, "unpack");
    if (tile >= of.waited) fail("tile %u of CB %u is read, %u were waited for", tile, cb, of.waited);
    uint32_t page = of.read_page[self->role] + tile;
    if (page >= of.pages) fail("tile %u of CB %u lies past its end: the unpacker does not wrap around", tile, cb);
    return self->core->l1 + of.address + page * of.page_bytes;
}

// The packer's: a page among those reserved.
uint8_t* page_to_pack(uint32_t cb, bool in_order, uint32_t index) {
    CircularBuffer& of = produced(cb, "pack_tile");
    uint32_t tile = in_order ? of.packed : index;
    if (tile >= of.reserved) fail("pack_tile: page %u of CB %u is packed, %u are reserved", tile, cb, of.reserved);
    uint32_t page = of.write_page[self->role] + tile;
    if (page >= of.pages)
        fail("pack_tile: page %u of CB %u lies past its end: the packer does not wrap around", tile, cb);
    if (in_order) of.packed++;
    return self->core->l1 + of.address + page * of.page_bytes;
}

}  // namespace emulation
