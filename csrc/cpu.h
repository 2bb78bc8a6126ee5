// CPU levels: one choice for the process, made once, lowered by TALLYSTICK_CPU or set_cpu_level().
//   avx2    AVX2, FMA, F16C, BMI2; SHA-NI where the CPU has it
//   avx512  F, BW, DQ, VL; SHA-NI where the CPU has it
//   scalar  nothing beyond the compiler's baseline, SHA-NI included
#pragma once
#include <array>
#include <cstddef>
#include <string>

namespace tallystick {

enum class Level { scalar, avx2, avx512 };

Level cpu_best();                 // highest level this machine can run
Level cpu_level();                // level in force; throws std::invalid_argument for a bogus TALLYSTICK_CPU
void set_cpu_level(Level level);  // throws std::invalid_argument above cpu_best()
bool cpu_has_sha();               // SHA-NI present and the level in force is not scalar
std::string level_name(Level level);
Level level_from_name(const std::string& name);  // throws std::invalid_argument

// One operation's implementations, lowest first; a null slot falls through to the one below it.
template <class Fn>
struct Variants {
    std::array<Fn, 3> slot;
    Fn operator*() const {
        auto i = static_cast<std::size_t>(cpu_level());
        while (!slot[i]) --i;
        return slot[i];
    }
};
template <class Fn>
Variants(Fn, Fn, Fn) -> Variants<Fn>;

}  // namespace tallystick

// Kernels stand between these, below every #include, and use no std:: templates: a weak symbol compiled
// for a high level could otherwise be linked into the scalar path.
#if defined(__x86_64__) && defined(__GNUC__)
#define TALLYSTICK_X86 1
#if defined(__clang__)
#define TALLYSTICK_AVX2_BEGIN \
    _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,f16c,bmi2\"))), apply_to = function)")
#define TALLYSTICK_AVX512_BEGIN                                                                              \
    _Pragma(                                                                                                 \
        "clang attribute "                                                                                   \
        "push(__attribute__((target(\"avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512vl,avx512dq\"))), apply_to " \
        "= function)")
#define TALLYSTICK_TARGET_END _Pragma("clang attribute pop")
#else
#define TALLYSTICK_AVX2_BEGIN _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,f16c,bmi2\")")
#define TALLYSTICK_AVX512_BEGIN          \
    _Pragma("GCC push_options") _Pragma( \
        "GCC target(\"avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512\")")
#define TALLYSTICK_TARGET_END _Pragma("GCC pop_options")
#endif
#else
#define TALLYSTICK_X86 0
#endif
