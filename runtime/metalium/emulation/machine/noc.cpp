// The network on chip. What a transfer brings lands at the barrier that waits for it, never before: a missing barrier
// shows. Until then the target of a read holds a pattern of its own.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace emulation {

static uint32_t low(uint64_t address) { return uint32_t(address & ((1ull << ADDRESS_BITS) - 1)); }
static uint32_t node(uint64_t address, int which) {
    return uint32_t(address >> (ADDRESS_BITS + NODE_BITS * which)) & ((1u << NODE_BITS) - 1);
}

uint8_t* Machine::l1_at(Core& core, uint32_t address, uint32_t bytes) {
    for (auto list : {&core.regions, &regions})
        for (const Region& region : *list)
            if (address >= region.address && uint64_t(address) + bytes <= uint64_t(region.address) + region.bytes)
                return core.l1 + address;
    return nullptr;
}

DramBuffer* Machine::dram_buffer(uint32_t address) {
    auto after = std::upper_bound(dram.begin(), dram.end(), address,
                                  [](uint32_t value, const DramBuffer& buffer) { return value < buffer.address; });
    if (after == dram.begin()) return nullptr;
    DramBuffer& buffer = *--after;
    return address < buffer.address + buffer.bank_bytes ? &buffer : nullptr;
}

uint8_t* Machine::dram_at(uint32_t bank, uint32_t address, uint32_t bytes) {
    DramBuffer* buffer = dram_buffer(address);
    if (!buffer || uint64_t(address) + bytes > uint64_t(buffer->address) + buffer->bank_bytes) return nullptr;
    return buffer->bytes.data() + size_t(bank) * buffer->bank_bytes + (address - buffer->address);
}

static uint8_t* own(const char* call, uint32_t address, uint32_t bytes) {
    uint8_t* at = machine().l1_at(*self->core, address, bytes);
    if (!at) fail("%s: L1 0x%x + %u bytes of this core lies outside what is allocated", call, address, bytes);
    return at;
}

static uint8_t* remote(const char* call, uint64_t address, uint32_t bytes, Core** core, bool* dram) {
    uint32_t x = node(address, 0), y = node(address, 1);
    *core = nullptr;
    *dram = y == 0;
    if (address >> (ADDRESS_BITS + 2 * NODE_BITS)) fail("%s: a multicast address where one node is meant", call);
    if (*dram) {
        uint8_t* at = x < machine().banks ? machine().dram_at(x, low(address), bytes) : nullptr;
        if (!at) fail("%s: DRAM bank %u, 0x%x + %u bytes lies outside what is allocated", call, x, low(address), bytes);
        return at;
    }
    *core = machine().by_noc[x][y];
    if (!*core) fail("%s: there is no core at (%u, %u) on the NoC", call, x, y);
    uint8_t* at = machine().l1_at(**core, low(address), bytes);
    if (!at)
        fail("%s: L1 0x%x + %u bytes of core (%u, %u) lies outside what is allocated", call, low(address), bytes,
             (*core)->x, (*core)->y);
    return at;
}

static void aligned(const char* call, uint64_t far, uint32_t near, uint32_t alignment, const char* memory) {
    if (low(far) % alignment != near % alignment)
        fail("%s: 0x%x in %s and 0x%x in this core's L1 differ modulo %u", call, low(far), memory, near, alignment);
}

void noc_read(uint64_t from, uint32_t to, uint32_t bytes) {
    pause();
    if (bytes == 0) return;
    Core* core;
    bool dram;
    uint8_t* source = remote("noc_async_read", from, bytes, &core, &dram);
    aligned("noc_async_read", from, to, dram ? machine().dram_read_alignment : machine().l1_alignment,
            dram ? "DRAM" : "L1");
    uint8_t* target = own("noc_async_read", to, bytes);
    self->reads.push_back({target, source, bytes, self->core, {}});
    if (source + bytes <= target || target + bytes <= source) poison(target, bytes, UNDER_WAY);
}

static void send(const char* call, uint32_t from, uint8_t* source, uint64_t to, uint32_t bytes) {
    Core* core;
    bool dram;
    uint8_t* target = remote(call, to, bytes, &core, &dram);
    aligned(call, to, from, dram ? machine().dram_write_alignment : machine().l1_alignment, dram ? "DRAM" : "L1");
    self->writes.push_back({target, source, bytes, core, std::vector<uint8_t>(source, source + bytes)});
}

void noc_write(uint32_t from, uint64_t to, uint32_t bytes) {
    pause();
    if (bytes) send("noc_async_write", from, own("noc_async_write", from, bytes), to, bytes);
}

// The cores of a multicast's rectangle; NoC 1 runs the other way, so that its corners come swapped.
static std::vector<Core*> receivers_of(const char* call, uint64_t to, uint32_t receivers, bool to_self, int noc) {
    uint32_t x0 = node(to, 2), y0 = node(to, 3), x1 = node(to, 0), y1 = node(to, 1);
    if (noc == 1) std::swap(x0, x1), std::swap(y0, y1);
    if (x0 > x1 || y0 > y1) fail("%s: corners of the rectangle the wrong way round for NoC %d", call, noc);
    std::vector<Core*> cores;
    for (Core& core : machine().cores)
        if (core.noc_x >= x0 && core.noc_x <= x1 && core.noc_y >= y0 && core.noc_y <= y1 &&
            (to_self || &core != self->core))
            cores.push_back(&core);
    if (cores.size() != receivers) fail("%s: to %u cores, the rectangle has %zu", call, receivers, cores.size());
    return cores;
}

static uint64_t unicast(const Core& core, uint64_t to) {
    return uint64_t(core.noc_y) << (ADDRESS_BITS + NODE_BITS) | uint64_t(core.noc_x) << ADDRESS_BITS | low(to);
}

void noc_multicast(uint32_t from, uint64_t to, uint32_t bytes, uint32_t receivers, bool to_self, int noc) {
    pause();
    uint8_t* source = own("noc_async_write_multicast", from, bytes);
    for (Core* core : receivers_of("noc_async_write_multicast", to, receivers, to_self, noc))
        send("noc_async_write_multicast", from, source, unicast(*core, to), bytes);
}

void noc_reads_done() {
    for (Transfer& read : self->reads) memmove(read.to, read.from, read.bytes);
    self->reads.clear();
    pause();
}

void noc_writes_done() {
    for (Transfer& write : self->writes) {
        if (memcmp(write.from, write.seen.data(), write.bytes))
            fail(
                "the source of a NoC write (L1 0x%x, %u bytes) was changed before the write had left: barrier or flush "
                "first",
                uint32_t(write.from - self->core->l1), write.bytes);
        memcpy(write.to, write.from, write.bytes);
    }
    std::vector<Transfer> landed;
    landed.swap(self->writes);
    for (Transfer& write : landed)
        if (write.at) wake(*write.at);
    pause();
}

void noc_increments_done() {
    self->increments = 0;
    pause();
}

static volatile uint32_t* word_at(const char* call, uint64_t at, Core** core) {
    bool dram;
    uint8_t* target = remote(call, at, 4, core, &dram);
    if (dram || low(at) % 4) fail("%s: 0x%x is no word of a core's L1", call, low(at));
    return reinterpret_cast<volatile uint32_t*>(target);
}

void noc_write_word(uint64_t to, uint32_t word) {
    pause();
    Core* core;
    *word_at("noc_inline_dw_write", to, &core) = word;
    wake(*core);
}

void noc_multicast_word(const volatile uint32_t* from, uint64_t to, uint32_t receivers, bool to_self, int noc) {
    pause();
    for (Core* of : receivers_of("noc_semaphore_set_multicast", to, receivers, to_self, noc)) {
        Core* core;
        *word_at("noc_semaphore_set_multicast", unicast(*of, to), &core) = *from;
        wake(*core);
    }
}

void semaphore_increment(uint64_t at, uint32_t by) {
    pause();
    Core* core;
    *word_at("noc_semaphore_inc", at, &core) += by;
    self->increments++;
    wake(*core);
}

void semaphore_set(volatile uint32_t* at, uint32_t value) {
    pause();
    *at = value;
    wake(*self->core);
}

void semaphore_wait(volatile uint32_t* at, uint32_t value, bool at_least) {
    pause();
    auto byte = reinterpret_cast<volatile uint8_t*>(at);
    if (byte < self->core->l1 || byte >= self->core->l1 + machine().l1_bytes)
        fail("noc_semaphore_wait: the semaphore is not in this core's L1");
    wait_until(at_least ? Wait::SemaphoreAtLeast : Wait::SemaphoreEqual, 0, at, value);
}

uint64_t bank_address(uint32_t bank, uint32_t address, bool dram) {
    if (dram) return uint64_t(bank) << ADDRESS_BITS | address;
    if (bank >= machine().cores.size()) fail("L1 bank %u: there are %zu", bank, machine().cores.size());
    return unicast(machine().cores[bank], address);
}

uint64_t page_address(uint32_t base, uint32_t page_bytes, uint32_t page, uint32_t offset, bool dram) {
    uint32_t alignment = dram ? machine().dram_read_alignment : machine().l1_alignment;
    uint32_t banks = dram ? machine().banks : uint32_t(machine().cores.size());
    uint32_t room = (page_bytes + alignment - 1) / alignment * alignment;
    if (offset >= room && offset)
        fail("page %u: offset %u lies outside the page of %u bytes", page, offset, page_bytes);
    uint32_t address = base + page / banks * room + offset;
    if (dram) {
        DramBuffer* buffer = machine().dram_buffer(base);
        if (!buffer || buffer->address != base) fail("page %u of a tensor at DRAM 0x%x: there is none", page, base);
        if (address >= base + buffer->bank_bytes)
            fail("page %u lies past the end of the tensor at DRAM 0x%x", page, base);
    }
    return bank_address(page % banks, address, dram);
}

}  // namespace emulation
