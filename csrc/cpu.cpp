#include "cpu.h"

#include <atomic>
#include <cstdlib>    // for getenv
#include <stdexcept>  // for invalid_argument

namespace tallystick {
namespace {

constexpr const char* kNames[] = {"scalar", "avx2", "avx512"};

Level initial_level() {
    const char* forced = std::getenv("TALLYSTICK_CPU");
    if (!forced || !*forced) return cpu_best();
    const Level level = level_from_name(forced);
    return level < cpu_best() ? level : cpu_best();  // may only lower
}

std::atomic<Level>& current() {
    static std::atomic<Level> level{initial_level()};
    return level;
}

}  // namespace

Level cpu_best() {
#if TALLYSTICK_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return Level::avx512;
    if (avx2) return Level::avx2;
#endif
    return Level::scalar;
}

Level cpu_level() { return current().load(std::memory_order_relaxed); }

void set_cpu_level(Level level) {
    if (level > cpu_best())
        throw std::invalid_argument("set_cpu_level: this CPU runs levels up to '" + level_name(cpu_best()) +
                                    "', got '" + level_name(level) + "'");
    current() = level;
}

bool cpu_has_sha() {
#if TALLYSTICK_X86
    static const bool present = [] {  // asked once: a virtual machine takes microseconds to answer
        unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
        __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
        return (ebx >> 29 & 1) != 0;
    }();
    return cpu_level() != Level::scalar && present;
#else
    return false;
#endif
}

std::string level_name(Level level) { return kNames[static_cast<int>(level)]; }

Level level_from_name(const std::string& name) {
    for (int i = 0; i < 3; ++i)
        if (name == kNames[i]) return static_cast<Level>(i);
    throw std::invalid_argument("unknown CPU level '" + name + "': scalar, avx2 or avx512 expected");
}

}  // namespace tallystick
