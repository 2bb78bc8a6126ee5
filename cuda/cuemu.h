// CUDA on the CPU, for tests: the same .cu file through g++. Correctness only.
//
// Every CUDA thread is a fiber; the fibers of a block take turns on one OS thread and change places at
// barriers and warp operations only; blocks run one after another. What that finds:
//   plain     wrong results; a barrier that not all threads reach, which is an error naming each waiting
//   thread's line ASan      accesses outside global memory (cudaMalloc is malloc) and outside shared arrays
//   (redzones between them) TSan      data races on shared and global memory, between the threads of a block
//   and between blocks: every fiber
//             is a TSan thread, and only barriers, warp operations and the launch order them
//   streams   work starts no sooner than the next synchronisation: a forgotten one leaves stale results
// CUEMU_SEED=<n> shuffles the order in which threads run. Shared memory is filled with 0xCD before each
// block. Not covered: inline PTX, cooperative groups, CUB, asynchronous copies inside kernels, textures,
// relaxed memory order.
#pragma once
#include <sys/mman.h>  // for mmap

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define TALLYSTICK_EMULATED 1

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" {  // gcc 12 ships these without a declaration
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_set_fiber_name(void* fiber, const char* name);
}
#endif
#if !defined(__x86_64__) || defined(CUEMU_UCONTEXT)
#include <ucontext.h>  // where there is no hand-written switch
#define CUEMU_PORTABLE_SWITCH 1
#else
#define CUEMU_PORTABLE_SWITCH 0
#endif
// The scheduler's own memory is no business of the sanitizers.
#define CUEMU_UNCHECKED \
    __attribute__((noinline, no_sanitize_address, no_sanitize_thread, no_sanitize_undefined))

// ---- Language ----

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr std::size_t count() const { return std::size_t{x} * y * z; }
};

// ---- Scheduler ----

namespace cuemu {

constexpr unsigned kWarp = 32;
constexpr std::size_t kStackBytes = std::size_t{256} << 10;
constexpr std::size_t kGuardBytes = 4096;
constexpr std::size_t kSharedBytes = std::size_t{227} << 10;  // what a block can have on sm_90
constexpr std::size_t kRedzone = 64;
constexpr std::size_t kArenaBytes = 2 * kSharedBytes;  // shared arrays with their redzones

// A kernel broke the rules of CUDA.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class State : std::uint8_t { ready, at_barrier, in_warp_operation, failed, done };

struct Site {
    const char* operation;
    const char* file;
    int line;
};

struct Fiber {
#if CUEMU_PORTABLE_SWITCH
    ucontext_t context;
#else
    void* stack_pointer;
#endif
    dim3 thread;
    unsigned lane;
    unsigned warp;
    State state;
    unsigned mask;        // of the warp operation it waits in
    unsigned operations;  // warp operations so far: their parity picks the exchange buffer
    Site site;            // where it waits
    char* stack;
    void* tsan;
    void* fake_stack;
};

// Two buffers: a lane that leaves an operation early may enter the next one before others have read this one.
struct Warp {
    std::uint64_t exchange[2][kWarp];
};

struct Scheduler {
    std::mutex lock;  // one launch at a time in the process
    std::vector<std::function<void()>> queue;

    Fiber* current;
    Fiber* fibers;
    Warp* warps;
    unsigned threads;
    dim3 grid, block, block_index;
    const std::function<void()>* body;
    std::string failure;
    std::uint64_t random;
    std::uint64_t block_serial;  // counts blocks over all launches: names this block's shared arrays

    char* stacks;
    std::size_t stack_count;
    char* arena;
    std::size_t arena_used;
    void* dynamic;

    char* sync;  // addresses that stand for this block's barrier, and one per warp, in TSan's eyes
    char launch_sync;
#if CUEMU_PORTABLE_SWITCH
    ucontext_t main_context;
#else
    void* main_stack_pointer;
#endif
    void* main_tsan;
    const void* main_stack;
    std::size_t main_stack_bytes;
    void* main_fake_stack;
};
inline Scheduler scheduler;
inline thread_local int last_error = 0;

#if defined(__SANITIZE_THREAD__)
inline void release(char* address) { __tsan_release(address); }
inline void acquire(char* address) { __tsan_acquire(address); }
#else
inline void release(char*) {}
inline void acquire(char*) {}
#endif

#if !CUEMU_PORTABLE_SWITCH
// Saves the callee-saved registers on the stack, leaves its pointer in *from, goes on where `to` was left.
__attribute__((naked, noinline, no_sanitize_address, no_sanitize_thread)) inline void switch_stack(
    void** /*from*/, void* /*to*/) {
    asm("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
        "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret");
}
#endif

CUEMU_UNCHECKED inline void enter(Fiber* fiber) {
    Scheduler& s = scheduler;
    s.current = fiber;
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(fiber->tsan, 1);  // 1: this switch orders nothing
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&s.main_fake_stack, fiber->stack, kStackBytes);
#endif
#if CUEMU_PORTABLE_SWITCH
    swapcontext(&s.main_context, &fiber->context);
#else
    switch_stack(&s.main_stack_pointer, fiber->stack_pointer);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(s.main_fake_stack, nullptr, nullptr);
#endif
}

CUEMU_UNCHECKED inline void leave() {
    Scheduler& s = scheduler;
    Fiber* fiber = s.current;
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(s.main_tsan, 1);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fiber->state == State::done ? nullptr : &fiber->fake_stack, s.main_stack,
                                   s.main_stack_bytes);
#endif
#if CUEMU_PORTABLE_SWITCH
    swapcontext(&fiber->context, &s.main_context);
#else
    switch_stack(&fiber->stack_pointer, s.main_stack_pointer);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber->fake_stack, nullptr, nullptr);
#endif
}

CUEMU_UNCHECKED inline void fiber_main() {
    Scheduler& s = scheduler;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &s.main_stack, &s.main_stack_bytes);
#endif
    (*s.body)();
    release(&s.launch_sync);
    s.current->state = State::done;
    leave();
    std::abort();  // a finished fiber is never entered
}

CUEMU_UNCHECKED inline void wait(State state, Site site, char* sync) {
    Fiber* fiber = scheduler.current;
    fiber->state = state;
    fiber->site = site;
    release(sync);
    leave();
    acquire(sync);
}

CUEMU_UNCHECKED inline void barrier(Site site) { wait(State::at_barrier, site, scheduler.sync); }

// Gives `value` to the warp and returns what each lane of the mask gave.
CUEMU_UNCHECKED inline const std::uint64_t* exchange(unsigned mask, std::uint64_t value, Site site) {
    Scheduler& s = scheduler;
    Fiber* fiber = s.current;
    std::uint64_t* slots = s.warps[fiber->warp].exchange[fiber->operations++ & 1];
    slots[fiber->lane] = value;
    fiber->mask = mask;
    const bool named = mask >> fiber->lane & 1;
    wait(named ? State::in_warp_operation : State::failed, site, s.sync + 8 * (1 + fiber->warp));
    return slots;
}

CUEMU_UNCHECKED inline bool same(const Site& a, const Site& b) {
    return a.line == b.line && std::strcmp(a.file, b.file) == 0;
}

// Says which places in the source the block's threads wait at, how many each, and a thread as example.
CUEMU_UNCHECKED inline void fail(const std::string& what) {
    Scheduler& s = scheduler;
    const dim3 b = s.block_index;
    char text[512];
    std::snprintf(text, sizeof text, "CUDA emulation: %s in block (%u,%u,%u)", what.c_str(), b.x, b.y, b.z);
    s.failure = text;
    for (unsigned i = 0; i < s.threads; ++i) {
        const Fiber& fiber = s.fibers[i];
        unsigned before = 0, count = 0;
        for (unsigned k = 0; k < s.threads; ++k) {
            if (s.fibers[k].state == State::done || !same(s.fibers[k].site, fiber.site)) continue;
            before += k < i;
            ++count;
        }
        if (fiber.state == State::done || before) continue;
        std::snprintf(text, sizeof text, "\n  %u threads, (%u,%u,%u) first, in %s at %s:%d", count,
                      fiber.thread.x, fiber.thread.y, fiber.thread.z, fiber.site.operation, fiber.site.file,
                      fiber.site.line);
        s.failure += text;
    }
    unsigned finished = 0;
    for (unsigned i = 0; i < s.threads; ++i) finished += s.fibers[i].state == State::done;
    if (finished) s.failure += "\n  " + std::to_string(finished) + " threads have finished";
}

CUEMU_UNCHECKED inline std::uint64_t next_random() {  // xorshift64
    std::uint64_t& x = scheduler.random;
    x ^= x << 13;
    x ^= x >> 7;
    return x ^= x << 17;
}

// Frees the lanes of every warp operation that all lanes of its mask have reached, at one place in the
// source.
CUEMU_UNCHECKED inline bool release_warps() {
    Scheduler& s = scheduler;
    bool released = false;
    for (unsigned first = 0; first < s.threads; first += kWarp) {
        for (unsigned lane = 0; lane < kWarp && first + lane < s.threads; ++lane) {
            const Fiber& fiber = s.fibers[first + lane];
            if (fiber.state != State::in_warp_operation) continue;
            const unsigned mask = fiber.mask;
            bool complete = true;
            for (unsigned k = 0; k < kWarp && complete; ++k) {
                if (!(mask >> k & 1)) continue;
                complete = first + k < s.threads;
                if (!complete) break;
                const Fiber& other = s.fibers[first + k];
                complete = other.state == State::in_warp_operation && other.mask == mask &&
                           same(other.site, fiber.site);
            }
            if (!complete) continue;
            for (unsigned k = 0; k < kWarp; ++k)
                if (mask >> k & 1) s.fibers[first + k].state = State::ready;
            released = true;
        }
    }
    return released;
}

// Frees the block's barrier if every thread stands at it; a thread that has finished or waits elsewhere is an
// error.
CUEMU_UNCHECKED inline bool release_barrier() {
    Scheduler& s = scheduler;
    for (unsigned i = 0; i < s.threads; ++i)
        if (s.fibers[i].state != State::at_barrier || !same(s.fibers[i].site, s.fibers[0].site)) return false;
    for (unsigned i = 0; i < s.threads; ++i) s.fibers[i].state = State::ready;
    return true;
}

CUEMU_UNCHECKED inline void prepare(Fiber& fiber, unsigned index) {
    fiber.state = State::ready;
    fiber.operations = 0;
    fiber.site = {"", "", 0};
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(fiber.stack, kStackBytes);  // a failed launch leaves frames behind
#endif
#if CUEMU_PORTABLE_SWITCH
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
#else
    void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes);
    *--top = nullptr;  // keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    fiber.stack_pointer = top;
#endif
#if defined(__SANITIZE_THREAD__)
    fiber.tsan = __tsan_create_fiber(0);
    const dim3 b = scheduler.block_index;
    char name[64];
    std::snprintf(name, sizeof name, "block (%u,%u,%u) thread %u", b.x, b.y, b.z, index);
    __tsan_set_fiber_name(fiber.tsan, name);
#else
    (void)index;
#endif
}

CUEMU_UNCHECKED inline void run_block(unsigned* order) {
    Scheduler& s = scheduler;
    for (unsigned i = 0; i < s.threads; ++i) {
        prepare(s.fibers[i], i);
        order[i] = i;
    }
    for (unsigned left = s.threads; left;) {
        if (s.random)
            for (unsigned i = s.threads - 1; i; --i)
                std::swap(order[i], order[(next_random() >> 16) % (i + 1)]);
        bool ran = false;
        for (unsigned i = 0; i < s.threads; ++i) {
            Fiber& fiber = s.fibers[order[i]];
            if (fiber.state != State::ready) continue;
            enter(&fiber);
            ran = true;
            left -= fiber.state == State::done;
            if (fiber.state == State::failed) return fail("a lane is not in the mask that it gives");
        }
        if (!release_warps() && !ran && left && !release_barrier())
            return fail("threads wait for each other (divergent barrier or warp operation)");
    }
}

CUEMU_UNCHECKED inline char* map(void* where, std::size_t bytes) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (where ? MAP_FIXED : 0);
    void* memory = mmap(where, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return static_cast<char*>(memory);
}

// Stacks and the shared arena are mapped once. Under TSan they are mapped anew for every block: that makes it
// forget who used these bytes in the block before, so that blocks stay unordered without reports about reused
// memory.
CUEMU_UNCHECKED inline void prepare_memory() {
    Scheduler& s = scheduler;
    constexpr std::size_t pitch = kStackBytes + kGuardBytes;
    if (s.stack_count < s.threads) {
        if (s.stacks) munmap(s.stacks, s.stack_count * pitch);
        s.stacks = map(nullptr, s.threads * pitch);
        s.stack_count = s.threads;
#if !defined(__SANITIZE_THREAD__)
        for (std::size_t i = 0; i < s.stack_count; ++i)
            mprotect(s.stacks + i * pitch, kGuardBytes, PROT_NONE);
#endif
    }
    if (!s.arena) s.arena = map(nullptr, kArenaBytes);
#if defined(__SANITIZE_THREAD__)
    map(s.stacks, s.stack_count * pitch);
    map(s.arena, kArenaBytes);
#endif
    for (unsigned i = 0; i < s.threads; ++i) s.fibers[i].stack = s.stacks + i * pitch + kGuardBytes;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(s.arena, kArenaBytes);
#endif
    s.arena_used = 0;
    ++s.block_serial;
}

CUEMU_UNCHECKED inline void* shared_bytes(std::size_t bytes) {
    Scheduler& s = scheduler;
    char* memory = s.arena + s.arena_used + kRedzone;
    s.arena_used += kRedzone + (bytes + kRedzone - 1) / kRedzone * kRedzone;
    if (s.arena_used + kRedzone > kArenaBytes) std::abort();
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
#endif
    for (std::size_t i = 0; i < bytes; ++i) memory[i] = static_cast<char>(0xCD);
    return memory;
}

// One per shared array in the source: the first thread of a block that gets here places the array.
struct SharedArray {
    std::uint64_t block_serial = 0;
    void* memory = nullptr;
    CUEMU_UNCHECKED void* get(std::size_t bytes) {
        if (block_serial != scheduler.block_serial) {
            block_serial = scheduler.block_serial;
            memory = shared_bytes(bytes);
        }
        return memory;
    }
};

CUEMU_UNCHECKED inline void run_grid(dim3 grid, dim3 block, std::size_t bytes,
                                     const std::function<void()>& body) {
    Scheduler& s = scheduler;
    s.grid = grid;
    s.block = block;
    s.threads = static_cast<unsigned>(block.count());
    s.body = &body;
    s.failure.clear();
    const char* seed = std::getenv("CUEMU_SEED");
    s.random = seed ? std::strtoull(seed, nullptr, 0) * 0x9E3779B97F4A7C15u + 1 : 0;
    const unsigned warps = (s.threads + kWarp - 1) / kWarp;
    std::unique_ptr<Fiber[]> fibers(new Fiber[s.threads]);
    std::unique_ptr<Warp[]> warp_memory(new Warp[warps]);
    std::unique_ptr<unsigned[]> order(new unsigned[s.threads]);
    const std::size_t sync_bytes = 8 * (1 + std::size_t{warps});
    std::unique_ptr<char[]> sync(new char[sync_bytes * grid.count()]);
    s.fibers = fibers.get();
    s.warps = warp_memory.get();
    for (unsigned i = 0; i < s.threads; ++i) {
        Fiber& fiber = s.fibers[i];
        fiber.thread = dim3(i % block.x, i / block.x % block.y, i / (block.x * block.y));
        fiber.lane = i % kWarp;
        fiber.warp = i / kWarp;
    }
#if defined(__SANITIZE_THREAD__)
    s.main_tsan = __tsan_get_current_fiber();
#endif
    s.sync = sync.get();
    for (std::size_t b = 0; b < grid.count() && s.failure.empty(); ++b, s.sync += sync_bytes) {
        s.block_index = dim3(static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                             static_cast<unsigned>(b / (std::size_t{grid.x} * grid.y)));
        prepare_memory();
        s.dynamic = shared_bytes(bytes);
        run_block(order.get());
        if (!s.failure.empty())
            for (std::size_t k = 0; k < sync_bytes; k += 8)
                acquire(s.sync + k);  // where its threads were left
#if defined(__SANITIZE_THREAD__)
        for (unsigned i = 0; i < s.threads; ++i) __tsan_destroy_fiber(s.fibers[i].tsan);
#endif
    }
    acquire(&s.launch_sync);
    s.current = nullptr;
    if (!s.failure.empty()) throw Error(s.failure);
}

// Runs what streams hold; all streams are one. The lock is held by the caller.
inline void drain() {
    auto queue = std::move(scheduler.queue);
    scheduler.queue.clear();
    for (auto& work : queue) work();
}

inline void enqueue(std::function<void()> work) {
    const std::lock_guard<std::mutex> hold(scheduler.lock);
    scheduler.queue.push_back(std::move(work));
}

template <class T>
inline std::uint64_t to_slot(T value) {
    static_assert(sizeof(T) <= 8);
    std::uint64_t slot = 0;
    std::memcpy(&slot, &value, sizeof(T));
    return slot;
}

template <class T>
CUEMU_UNCHECKED inline T shuffle(unsigned mask, T value, int source, Site site) {
    const std::uint64_t* slots = exchange(mask, to_slot(value), site);
    const unsigned lane = scheduler.current->lane;
    T result;
    std::memcpy(&result, &slots[source < 0 || source >= int{kWarp} ? lane : static_cast<unsigned>(source)],
                sizeof(T));
    return result;
}

CUEMU_UNCHECKED inline unsigned ballot(unsigned mask, bool predicate, Site site) {
    const std::uint64_t* slots = exchange(mask, predicate, site);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < kWarp; ++lane)
        if ((mask >> lane & 1) && slots[lane]) votes |= 1u << lane;
    return votes;
}

CUEMU_UNCHECKED inline int lane() { return static_cast<int>(scheduler.current->lane); }
CUEMU_UNCHECKED inline dim3 thread_index() { return scheduler.current->thread; }
CUEMU_UNCHECKED inline dim3 block_index() { return scheduler.block_index; }
CUEMU_UNCHECKED inline dim3 block_size() { return scheduler.block; }
CUEMU_UNCHECKED inline dim3 grid_size() { return scheduler.grid; }

}  // namespace cuemu

#define threadIdx (cuemu::thread_index())
#define blockIdx (cuemu::block_index())
#define blockDim (cuemu::block_size())
#define gridDim (cuemu::grid_size())
#define warpSize 32
#define CUEMU_SITE(operation) (cuemu::Site{operation, __FILE__, __LINE__})
#define __syncthreads() cuemu::barrier(CUEMU_SITE("__syncthreads"))
#define __syncwarp() ((void)cuemu::exchange(0xffffffffu, 0, CUEMU_SITE("__syncwarp")))
#define __shfl_sync(mask, v, source) cuemu::shuffle(mask, v, (source) & 31, CUEMU_SITE("__shfl_sync"))
#define __shfl_xor_sync(mask, v, x) \
    cuemu::shuffle(mask, v, cuemu::lane() ^ (x), CUEMU_SITE("__shfl_xor_sync"))
#define __shfl_up_sync(mask, v, by) \
    cuemu::shuffle(mask, v, cuemu::lane() - static_cast<int>(by), CUEMU_SITE("__shfl_up_sync"))
#define __shfl_down_sync(mask, v, by) \
    cuemu::shuffle(mask, v, cuemu::lane() + static_cast<int>(by), CUEMU_SITE("__shfl_down_sync"))
#define __ballot_sync(mask, p) cuemu::ballot(mask, (p), CUEMU_SITE("__ballot_sync"))
#define __popc __builtin_popcount
#define __ffs __builtin_ffs

template <class T>
inline T atomicAdd(T* address, T value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <class T>
inline T atomicOr(T* address, T value) {
    return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}

// ---- Runtime ----

using cudaError_t = int;
using cudaStream_t = struct CUstream_st*;
constexpr cudaError_t cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidConfiguration = 9;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };

inline cudaError_t cudaGetLastError() { return std::exchange(cuemu::last_error, cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t error) {
    if (error == cudaErrorMemoryAllocation) return "out of memory";
    return error == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "no error";
}
enum cudaMemoryType {
    cudaMemoryTypeUnregistered,
    cudaMemoryTypeHost,
    cudaMemoryTypeDevice,
    cudaMemoryTypeManaged
};
struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
    *attributes = {cudaMemoryTypeDevice, 0};
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 1, cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
    const std::lock_guard<std::mutex> hold(cuemu::scheduler.lock);
    cuemu::drain();
    return cudaSuccess;
}
inline cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t) {
    *memory = std::malloc(bytes ? bytes : 1);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
    cuemu::enqueue([memory] { std::free(memory); });
    return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t) {
    cuemu::enqueue([=] { std::memset(memory, value, bytes); });
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t) {
    if (kind == cudaMemcpyHostToDevice) {  // pageable host memory is read before the call returns
        const char* first = static_cast<const char*>(from);
        auto copy = std::make_shared<std::vector<char>>(first, first + bytes);
        cuemu::enqueue([=] { std::memcpy(to, copy->data(), bytes); });
    } else {
        cuemu::enqueue([=] { std::memcpy(to, from, bytes); });
    }
    return cudaSuccess;
}

namespace cuemu {

template <class... P, class... A>
void launch(dim3 grid, dim3 block, std::size_t bytes, cudaStream_t, void (*kernel)(P...), A... arguments) {
    if (!grid.count() || !block.count() || block.count() > 1024 || grid.y > 65535 || grid.z > 65535 ||
        grid.x > 0x7fffffffu || bytes > kSharedBytes) {
        last_error = cudaErrorInvalidConfiguration;
        return;
    }
    std::tuple<P...> values(arguments...);
    enqueue([=] { run_grid(grid, block, bytes, [&] { std::apply(kernel, values); }); });
}

}  // namespace cuemu

#define TALLYSTICK_UNPAREN(...) __VA_ARGS__
#define TALLYSTICK_LAUNCH(kernel, grid, block, bytes, stream, ...) \
    cuemu::launch(grid, block, bytes, stream, TALLYSTICK_UNPAREN kernel, __VA_ARGS__)
#define TALLYSTICK_SHARED(T, name, count)      \
    static cuemu::SharedArray name##_in_block; \
    T(&name)                                   \
    [count] = *static_cast<T(*)[count]>(       \
        name##_in_block.get(sizeof(T[count])))  // NOLINT: an array like __shared__ T name[count]
#define TALLYSTICK_DYN_SHARED(T, name) T* const name = static_cast<T*>(cuemu::scheduler.dynamic)
