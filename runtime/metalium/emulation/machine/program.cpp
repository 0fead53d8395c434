// What the host calls: memory, and a program's circular buffers, semaphores and kernels.
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "machine.h"

namespace emulation {

// --- seen from kernels ---------------------------------------------------------------------------------------------
uint32_t* argument_at(int index, bool common) {
    std::vector<uint32_t>& arguments = common ? self->common_arguments : self->arguments;
    if (index < 0 || size_t(index) >= arguments.size())
        fail("%s argument %d, there are %zu", common ? "common runtime" : "runtime", index, arguments.size());
    return &arguments[size_t(index)];
}

void* l1_pointer(uint32_t address, uint32_t bytes) {
    uint8_t* at = machine().l1_at(*self->core, address, bytes);
    if (!at) fail("L1 0x%x of this core lies outside what is allocated", address);
    if (address % bytes)
        fail("L1 0x%x is not a multiple of the %u bytes that are read or written there", address, bytes);
    return at;
}

uint32_t l1_address(const volatile void* pointer) {
    auto at = static_cast<const volatile uint8_t*>(pointer);
    if (at < self->core->l1 || at >= self->core->l1 + machine().l1_bytes)
        fail("a pointer that is not into this core's L1");
    return uint32_t(at - self->core->l1);
}

uint32_t semaphore_address(uint32_t id) {
    uint32_t address = machine().semaphore_base + id * SEMAPHORE_BYTES;
    if (id >= SEMAPHORES || !machine().l1_at(*self->core, address, 4))
        fail("semaphore %u is not in the program on this core", id);
    return address;
}

uint32_t coordinate(int which) {
    const Core& core = *self->core;
    return which == 0 ? core.x : which == 1 ? core.y : which == 2 ? core.noc_x : core.noc_y;
}

// --- the card ------------------------------------------------------------------------------------------------------
extern "C" Machine* emulation_open(bool blackhole, uint32_t width, uint32_t height, uint32_t banks, uint32_t l1_bytes,
                                   uint32_t semaphore_base, uint32_t read_alignment, const uint32_t* noc_columns,
                                   uint32_t first_row) {
    active = new Machine();
    machine().blackhole = blackhole;
    machine().width = width, machine().height = height, machine().banks = banks;
    machine().l1_bytes = l1_bytes, machine().semaphore_base = semaphore_base;
    machine().dram_read_alignment = read_alignment;
    size_t room = (size_t(l1_bytes) + 4095) / 4096 * 4096;
    void* l1 = mmap(nullptr, room * width * height, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                    -1, 0);
    if (l1 == MAP_FAILED) {
        delete active;
        return active = nullptr;
    }
    machine().l1 = static_cast<uint8_t*>(l1);
    machine().cores.resize(size_t(width) * height);
    for (uint32_t n = 0; n < width * height; n++) {
        Core& core = machine().cores[n];
        core.x = n % width, core.y = n / width;
        core.noc_x = noc_columns[core.x], core.noc_y = first_row + core.y;
        core.l1 = machine().l1 + room * n;
        machine().by_noc[core.noc_x][core.noc_y] = &core;
        for (int role = 0; role < ROLES; role++) core.fibers[role].core = &core, core.fibers[role].role = role;
    }
    return active;
}

extern "C" void emulation_close(Machine* of) {
    active = of;
    for (Core& core : machine().cores) {
        delete core.registers;
        for (Fiber& fiber : core.fibers)
            if (fiber.stack) munmap(fiber.stack - GUARD_BYTES, STACK_BYTES + GUARD_BYTES);
    }
    size_t room = (size_t(machine().l1_bytes) + 4095) / 4096 * 4096;
    if (machine().l1) munmap(machine().l1, room * machine().cores.size());
    delete active;
    active = nullptr;
}

extern "C" void emulation_dram_add(Machine* of, uint32_t address, uint32_t bank_bytes) {
    active = of;
    DramBuffer buffer{address, bank_bytes, std::vector<uint8_t>(size_t(bank_bytes) * machine().banks)};
    poison(buffer.bytes.data(), uint32_t(buffer.bytes.size()), UNWRITTEN);
    auto at = std::find_if(machine().dram.begin(), machine().dram.end(),
                           [&](const DramBuffer& b) { return b.address > address; });
    machine().dram.insert(at, std::move(buffer));
}

extern "C" void emulation_dram_remove(Machine* of, uint32_t address) {
    active = of;
    auto gone = [&](const DramBuffer& buffer) { return buffer.address == address; };
    machine().dram.erase(std::remove_if(machine().dram.begin(), machine().dram.end(), gone), machine().dram.end());
}

extern "C" uint8_t* emulation_dram_bytes(Machine* of, uint32_t address) {
    active = of;
    DramBuffer* buffer = machine().dram_buffer(address);
    return buffer ? buffer->bytes.data() : nullptr;
}

extern "C" void emulation_l1_add(Machine* of, uint32_t address, uint32_t bytes) {
    active = of;
    machine().regions.push_back({address, bytes});
    for (Core& core : machine().cores) poison(core.l1 + address, bytes, UNWRITTEN);
}

extern "C" void emulation_l1_remove(Machine* of, uint32_t address) {
    active = of;
    auto gone = [&](const Region& region) { return region.address == address; };
    machine().regions.erase(std::remove_if(machine().regions.begin(), machine().regions.end(), gone),
                            machine().regions.end());
}

extern "C" uint8_t* emulation_l1_bytes(Machine* of, uint32_t core, uint32_t address) {
    active = of;
    return machine().cores[core].l1 + address;
}

// --- a program -----------------------------------------------------------------------------------------------------
extern "C" void emulation_program_begin(Machine* of) {
    active = of;
    for (Fiber* fiber : machine().running) fiber->entry = nullptr;
    machine().running.clear();
    for (Core& core : machine().cores) {
        core.regions.clear();
        for (CircularBuffer& cb : core.cbs) cb.there = false;
    }
}

extern "C" void emulation_cb(Machine* of, uint32_t core, uint32_t index, uint32_t address, uint32_t page_bytes,
                             uint32_t pages, uint32_t format, bool unpack_to_dest, bool alone) {
    active = of;
    CircularBuffer& cb = machine().cores[core].cbs[index];
    cb = CircularBuffer();
    cb.there = true;
    cb.address = address, cb.page_bytes = page_bytes, cb.pages = pages;
    cb.format = DataFormat(format), cb.unpack_to_dest = unpack_to_dest, cb.alone = alone;
    machine().cores[core].regions.push_back({address, page_bytes * pages});
    poison(machine().cores[core].l1 + address, page_bytes * pages, UNWRITTEN);
}

extern "C" void emulation_semaphore(Machine* of, uint32_t core, uint32_t id, uint32_t value) {
    active = of;
    uint32_t address = machine().semaphore_base + id * SEMAPHORE_BYTES;
    machine().cores[core].regions.push_back({address, SEMAPHORE_BYTES});
    memcpy(machine().cores[core].l1 + address, &value, 4);
}

static uint8_t* new_stack() {
    void* room = mmap(nullptr, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(room, GUARD_BYTES, PROT_NONE);
    return static_cast<uint8_t*>(room) + GUARD_BYTES;
}

extern "C" void emulation_kernel(Machine* of, uint32_t number, uint32_t role, void (*entry)(), const char* name,
                                 const uint32_t* arguments, uint32_t count, const uint32_t* common,
                                 uint32_t common_count) {
    active = of;
    Core& core = machine().cores[number];
    Fiber& fiber = core.fibers[role];
    if (!fiber.stack) fiber.stack = new_stack();
    fiber.entry = entry;
    fiber.kernel = name;
    fiber.arguments.assign(arguments, arguments + count);
    fiber.common_arguments.assign(common, common + common_count);
    fiber.reads.clear(), fiber.writes.clear();
    fiber.increments = 0;
    fiber.wait = Wait::None;
    fiber.done = false;
    machine().running.push_back(&fiber);
}

extern "C" void emulation_compute(Machine* of, uint32_t number, bool fp32, bool full_sync, int fidelity,
                                  bool approximate) {
    active = of;
    Core& core = machine().cores[number];
    if (!core.registers) core.registers = new Registers();
    Registers& dst = *core.registers;
    dst.fp32 = fp32, dst.full_sync = full_sync, dst.fidelity = fidelity, dst.approximate = approximate;
    dst.halves = full_sync ? 1 : 2;
    dst.tiles = (fp32 ? 8 : 16) / dst.halves;
    dst.math_half = dst.pack_half = dst.committed = 0;
    dst.acquired = dst.packing = false;
    memset(dst.set, 0, sizeof dst.set);
    core.setup = Setup();
}

extern "C" const char* emulation_error(Machine* of) {
    active = of;
    return machine().error.c_str();
}

}  // namespace emulation
