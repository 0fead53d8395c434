// What a kernel can do to the emulation itself: touch memory that is not there, run off its stack, or loop for ever
// without a call that would let another kernel go on. All become errors like the others.
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include "machine.h"

namespace emulation {

constexpr int TICK_SECONDS = 2;  // of this process's time
static uint64_t calls_seen = 0;
static pthread_t runner;
static struct sigaction before[3];
static constexpr int SIGNALS[3] = {SIGSEGV, SIGBUS, SIGVTALRM};
static uint8_t handler_stack[64 << 10];

static void* frame_of(void* context, void** at) {
    auto of = static_cast<ucontext_t*>(context);
#if defined(__x86_64__)
    *at = reinterpret_cast<void*>(of->uc_mcontext.gregs[REG_RIP]);
    return reinterpret_cast<void*>(of->uc_mcontext.gregs[REG_RBP]);
#elif defined(__aarch64__)
    *at = reinterpret_cast<void*>(of->uc_mcontext.pc);
    return reinterpret_cast<void*>(of->uc_mcontext.regs[29]);
#else
    *at = nullptr;
    return nullptr;
#endif
}

static void caught(int signal, siginfo_t* information, void* context) {
    if (!pthread_equal(pthread_self(), runner)) {  // another thread of the host: none of our business
        if (signal != SIGVTALRM) sigaction(signal, &before[signal == SIGSEGV ? 0 : 1], nullptr);
        return;
    }
    void* at = nullptr;
    void* frame = frame_of(context, &at);
    if (signal == SIGVTALRM) {
        if (machine().calls != calls_seen) {
            calls_seen = machine().calls;
            return;
        }
        fail_at(frame, at, "loops without a call of the API: no other kernel can go on");
    }
    auto address = static_cast<uint8_t*>(information->si_addr);
    if (self && self->stack && address >= self->stack - GUARD_BYTES && address < self->stack)
        fail_at(frame, at, "runs off its stack");
    fail_at(frame, at,
            "touches memory at %p, which is not this core's L1: addresses become pointers through CoreLocalMem",
            static_cast<void*>(address));
}

void guard() {
    runner = pthread_self();
    stack_t stack{};
    stack.ss_sp = handler_stack;
    stack.ss_size = sizeof handler_stack;
    sigaltstack(&stack, nullptr);
    struct sigaction action{};
    action.sa_sigaction = caught;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int n = 0; n < 3; n++) sigaction(SIGNALS[n], &action, &before[n]);
    calls_seen = ~0ull;
    itimerval every{{TICK_SECONDS, 0}, {TICK_SECONDS, 0}};
    setitimer(ITIMER_VIRTUAL, &every, nullptr);
}

void unguard() {
    itimerval none{};
    setitimer(ITIMER_VIRTUAL, &none, nullptr);
    for (int n = 0; n < 3; n++) sigaction(SIGNALS[n], &before[n], nullptr);
}

}  // namespace emulation
