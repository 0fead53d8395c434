// The kernels as threads of one: they take turns at calls of the API, in an order drawn from the seed.
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "machine.h"

namespace emulation {

Machine* active = nullptr;
Fiber* self = nullptr;

static uint64_t draw() {  // xorshift
    machine().random ^= machine().random << 13;
    machine().random ^= machine().random >> 7;
    return machine().random ^= machine().random << 17;
}

// The calls that led here, kernel code only, as @{object+offset ...}; the host asks addr2line for the lines.
std::string trace(void* frame, void* at) {
    std::string out = "@{";
    auto add = [&](void* address, int back) {
        Dl_info of;
        if (!dladdr(address, &of) || !of.dli_fname || !strstr(of.dli_fname, "/kernel-")) return;
        char text[600];
        snprintf(text, sizeof text, "%s+%zx ", of.dli_fname,
                 size_t(static_cast<char*>(address) - static_cast<char*>(of.dli_fbase)) - back);
        out += text;
    };
    if (at) add(at, 0);
    auto first = reinterpret_cast<uintptr_t>(self ? self->stack : nullptr);
    void** up = static_cast<void**>(frame);
    for (int depth = 0; depth < 40; depth++) {
        auto place = reinterpret_cast<uintptr_t>(up);
        if (place < first || place + 16 > first + STACK_BYTES || place % 8) break;  // not on this kernel's stack
        add(up[1], 1);
        void** next = static_cast<void**>(up[0]);
        if (next <= up) break;
        up = next;
    }
    return out + "}";
}

static std::string name(const Fiber& fiber) {
    static const char* roles[] = {"reader", "writer", "compute"};
    char text[600];
    snprintf(text, sizeof text, "core (%u, %u), %s kernel %s", fiber.core->x, fiber.core->y, roles[fiber.role],
             fiber.kernel);
    return text;
}

[[noreturn]] static void fail_with(void* frame, void* at, const char* format, va_list more) {
    char text[1000];
    vsnprintf(text, sizeof text, format, more);
    machine().error = name(*self) + ", " + trace(frame, at) + ": " + text;
    setcontext(&machine().scheduler);
    __builtin_unreachable();
}

void fail(const char* format, ...) {
    va_list more;
    va_start(more, format);
    fail_with(__builtin_frame_address(0), nullptr, format, more);
}

void fail_at(void* frame, void* at, const char* format, ...) {
    va_list more;
    va_start(more, format);
    fail_with(frame, at, format, more);
}

__attribute__((noinline)) void yield() {
    self->frame = __builtin_frame_address(0);
    machine().ready.push_back(self);
    swapcontext(&self->context, &machine().scheduler);
}

void pause() {
    machine().calls++;
    if ((draw() & machine().switch_mask) == 0) yield();
}

static bool satisfied(const Fiber& fiber) {
    const CircularBuffer& cb = fiber.core->cbs[fiber.wait_cb];
    switch (fiber.wait) {
        case Wait::None: return true;
        case Wait::Pages: return cb.available() >= fiber.wait_value;
        case Wait::Space: return cb.free_pages() >= fiber.wait_value;
        case Wait::SemaphoreEqual: return *fiber.wait_at == fiber.wait_value;
        case Wait::SemaphoreAtLeast: return *fiber.wait_at >= fiber.wait_value;
    }
    return true;
}

__attribute__((noinline)) void wait_until(Wait wait, uint32_t cb, const volatile uint32_t* at, uint32_t value) {
    self->wait = wait, self->wait_cb = cb, self->wait_at = at, self->wait_value = value;
    if (!satisfied(*self)) {
        self->frame = __builtin_frame_address(0);
        swapcontext(&self->context, &machine().scheduler);
    }
    self->wait = Wait::None;
}

void wake(Core& core) {
    for (Fiber& fiber : core.fibers)
        if (fiber.wait != Wait::None && &fiber != self && satisfied(fiber)) {
            fiber.wait = Wait::None;
            machine().ready.push_back(&fiber);
        }
}

static void start() {
    self->entry();
    if (!self->reads.empty())
        fail("ends with %zu NoC reads not waited for (noc_async_read_barrier)", self->reads.size());
    if (!self->writes.empty())
        fail("ends with %zu NoC writes not waited for (noc_async_write_barrier)", self->writes.size());
    if (self->increments)
        fail("ends with %u increments of semaphores not waited for (noc_async_atomic_barrier)", self->increments);
    if (self->role == COMPUTE && self->core->registers &&
        (self->core->registers->acquired || self->core->registers->packing || self->core->registers->committed))
        fail("ends with destination registers not released");
    self->done = true;
    setcontext(&machine().scheduler);
}

static std::string deadlock() {
    std::string out = "deadlock, every kernel waits:";
    int listed = 0;
    for (Fiber* fiber : machine().running) {
        if (fiber->done) continue;
        if (++listed > 12) {
            out += "\n  … and others";
            break;
        }
        const CircularBuffer& cb = fiber->core->cbs[fiber->wait_cb];
        char text[200] = "";
        switch (fiber->wait) {
            case Wait::None: break;
            case Wait::Pages:
                snprintf(text, sizeof text, "cb_wait_front(%u, %u): %u pages are there", fiber->wait_cb,
                         fiber->wait_value, cb.available());
                break;
            case Wait::Space:
                snprintf(text, sizeof text, "cb_reserve_back(%u, %u): %u of %u pages are free", fiber->wait_cb,
                         fiber->wait_value, cb.free_pages(), cb.pages);
                break;
            case Wait::SemaphoreEqual:
            case Wait::SemaphoreAtLeast:
                snprintf(text, sizeof text, "semaphore at L1 0x%x to be %s%u: it is %u",
                         uint32_t(reinterpret_cast<const volatile uint8_t*>(fiber->wait_at) - fiber->core->l1),
                         fiber->wait == Wait::SemaphoreEqual ? "" : "at least ", fiber->wait_value, *fiber->wait_at);
        }
        self = fiber;  // whose stack it is
        out += "\n  " + name(*fiber) + ", " + trace(fiber->frame) + ": " + text;
    }
    return out;
}

// What every program has to leave behind it: empty buffers.
static void check_leftovers() {
    for (Fiber* fiber : machine().running) {
        Core& core = *fiber->core;
        for (uint32_t n = 0; n < CBS; n++) {
            const CircularBuffer& cb = core.cbs[n];
            char text[200] = "";
            if (cb.there && cb.available())
                snprintf(text, sizeof text, "core (%u, %u): CB %u ends with %u pages pushed but never popped", core.x,
                         core.y, n, cb.available());
            else if (cb.there && cb.reserved && cb.packed)
                snprintf(text, sizeof text, "core (%u, %u): CB %u ends with pages packed but never pushed", core.x,
                         core.y, n);
            if (*text) {
                machine().error = std::string(text) + (cb.producer >= 0 ? " by " + name(core.fibers[cb.producer]) : "");
                return;
            }
        }
    }
}

static int run(uint64_t seed, uint32_t switch_mask) {
    machine().random = seed * 0x9E3779B97F4A7C15ull | 1;
    machine().switch_mask = switch_mask;
    machine().error.clear();
    machine().ready = machine().running;
    for (Fiber* fiber : machine().running) {
        getcontext(&fiber->context);
        fiber->context.uc_stack.ss_sp = fiber->stack;
        fiber->context.uc_stack.ss_size = STACK_BYTES;
        fiber->context.uc_link = nullptr;
        makecontext(&fiber->context, start, 0);
    }
    for (;;) {
        if (!machine().error.empty()) return 1;
        if (machine().ready.empty()) {  // plain stores may have changed a semaphore: look at them all, once
            self = nullptr;
            for (Fiber* fiber : machine().running)
                if (!fiber->done && fiber->wait != Wait::None && satisfied(*fiber)) {
                    fiber->wait = Wait::None;
                    machine().ready.push_back(fiber);
                }
            if (machine().ready.empty()) break;
        }
        size_t pick = draw() % machine().ready.size();
        self = machine().ready[pick];
        machine().ready[pick] = machine().ready.back();
        machine().ready.pop_back();
        swapcontext(&machine().scheduler, &self->context);
    }
    for (Fiber* fiber : machine().running)
        if (!fiber->done) {
            machine().error = deadlock();
            return 1;
        }
    check_leftovers();
    return machine().error.empty() ? 0 : 1;
}

extern "C" int emulation_run(Machine* of, uint64_t seed, uint32_t switch_mask) {
    active = of;
    guard();
    int failed = run(seed, switch_mask);
    unguard();
    return failed;
}

}  // namespace emulation
