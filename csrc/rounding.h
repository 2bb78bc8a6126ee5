// Formats of parameters and rounding to them, the same source for g++ and nvcc.
//   Half   IEEE binary16        Brain  bfloat16        and float, double
// A zero result is always +0. Denormals are never flushed.
#pragma once
#include <cstdint>

#include "hd.h"

namespace tallystick {

struct Half {
    std::uint16_t bits;
};
struct Brain {
    std::uint16_t bits;
};

#if defined(__CUDA_ARCH__)
TALLYSTICK_HD std::uint32_t bits_of(float x) { return __float_as_uint(x); }
TALLYSTICK_HD std::uint64_t bits_of(double x) { return static_cast<std::uint64_t>(__double_as_longlong(x)); }
TALLYSTICK_HD float float_of(std::uint32_t b) { return __uint_as_float(b); }
TALLYSTICK_HD double double_of(std::uint64_t b) { return __longlong_as_double(static_cast<long long>(b)); }
#else
TALLYSTICK_HD std::uint32_t bits_of(float x) {
    std::uint32_t b;
    __builtin_memcpy(&b, &x, sizeof b);
    return b;
}
TALLYSTICK_HD std::uint64_t bits_of(double x) {
    std::uint64_t b;
    __builtin_memcpy(&b, &x, sizeof b);
    return b;
}
TALLYSTICK_HD float float_of(std::uint32_t b) {
    float x;
    __builtin_memcpy(&x, &b, sizeof x);
    return x;
}
TALLYSTICK_HD double double_of(std::uint64_t b) {
    double x;
    __builtin_memcpy(&x, &b, sizeof x);
    return x;
}
#endif

TALLYSTICK_HD double magnitude(double x) { return double_of(bits_of(x) & ~(std::uint64_t{1} << 63)); }

// ---- Widening, exact; infinities and NaN stay what they are. ----

TALLYSTICK_HD float widen(float x) { return x; }
TALLYSTICK_HD double widen(double x) { return x; }
TALLYSTICK_HD float widen(Brain x) { return float_of(static_cast<std::uint32_t>(x.bits) << 16); }
TALLYSTICK_HD float widen(Half x) {
    const std::uint32_t shifted = (x.bits & 0x7fffu) << 13;  // exponent and fraction where float has them
    const std::uint32_t normal = shifted + (112u << 23);     // 127 - 15
    const std::uint32_t small = bits_of(float_of(shifted + (113u << 23)) - float_of(113u << 23));
    const std::uint32_t infinite = shifted + (224u << 23);
    const std::uint32_t size = shifted < (1u << 23) ? small : shifted >= 0x0f800000u ? infinite : normal;
    return float_of(size | (x.bits & 0x8000u) << 16);
}

// What values of T are computed in.
template <class T>
using Widened = decltype(widen(T{}));

// ---- Rounding to nearest, ties to even; beyond the largest finite value: infinity. x is not NaN. ----

// x cut to a float, last bit set if anything was cut off ("to odd"): rounding that again, to 22 bits or
// fewer, gives what rounding x itself would give.
TALLYSTICK_HD float to_odd_float(double x) {
    const float near = static_cast<float>(x);
    const double back = static_cast<double>(near);
    const std::uint32_t cut = bits_of(near) - static_cast<std::uint32_t>(magnitude(back) > magnitude(x));
    return float_of(cut | static_cast<std::uint32_t>(back != x));
}

template <class T>
TALLYSTICK_HD T narrow(double x);

template <>
TALLYSTICK_HD double narrow<double>(double x) {
    return x + 0.0;  // -0 + 0 is +0
}
template <>
TALLYSTICK_HD float narrow<float>(double x) {
    return static_cast<float>(x) + 0.0f;
}
template <>
TALLYSTICK_HD Brain narrow<Brain>(double x) {
    const std::uint32_t b = bits_of(to_odd_float(x));
    const std::uint32_t r = (b + 0x7fffu + (b >> 16 & 1u)) >> 16;
    return {static_cast<std::uint16_t>((r & 0x7fffu) == 0 ? 0u : r)};
}
template <>
TALLYSTICK_HD Half narrow<Half>(double x) {
    const std::uint32_t b = bits_of(to_odd_float(x));
    const std::uint32_t a = b & 0x7fffffffu;
    const std::uint32_t normal = (a + 0xfffu + (a >> 13 & 1u) - (112u << 23)) >> 13;
    const std::uint32_t small = bits_of(float_of(a) + 0.5f) - bits_of(0.5f);  // 0.5f has steps of 2^-24
    const std::uint32_t size = a >= 0x47800000u ? 0x7c00u : a < 0x38800000u ? small : normal;
    return {static_cast<std::uint16_t>(size == 0 ? 0u : size | (b >> 16 & 0x8000u))};
}

TALLYSTICK_HD bool same(float a, float b) { return a == b; }
TALLYSTICK_HD bool same(double a, double b) { return a == b; }
TALLYSTICK_HD bool same(Half a, Half b) { return a.bits == b.bits; }
TALLYSTICK_HD bool same(Brain a, Brain b) { return a.bits == b.bits; }

// ---- Values of a format as consecutive integers: neighbours differ by 1, both zeros are 0. ----

template <class T>
struct Format;  // kLargest: key of the largest finite value
template <>
struct Format<double> {
    static constexpr std::int64_t kLargest = 0x7fefffffffffffff;
};
template <>
struct Format<float> {
    static constexpr std::int64_t kLargest = 0x7f7fffff;
};
template <>
struct Format<Half> {
    static constexpr std::int64_t kLargest = 0x7bff;
};
template <>
struct Format<Brain> {
    static constexpr std::int64_t kLargest = 0x7f7f;
};

TALLYSTICK_HD std::int64_t signed_key(std::uint64_t bits, int sign_bit) {
    const auto size = static_cast<std::int64_t>(bits & ((std::uint64_t{1} << sign_bit) - 1));
    return bits >> sign_bit & 1 ? -size : size;
}
TALLYSTICK_HD std::int64_t key_of(double x) { return signed_key(bits_of(x), 63); }
TALLYSTICK_HD std::int64_t key_of(float x) { return signed_key(bits_of(x), 31); }
TALLYSTICK_HD std::int64_t key_of(Half x) { return signed_key(x.bits, 15); }
TALLYSTICK_HD std::int64_t key_of(Brain x) { return signed_key(x.bits, 15); }

template <class T>
TALLYSTICK_HD T from_key(std::int64_t key);

template <>
TALLYSTICK_HD double from_key<double>(std::int64_t key) {
    return key < 0 ? -double_of(static_cast<std::uint64_t>(-key))
                   : double_of(static_cast<std::uint64_t>(key));
}
template <>
TALLYSTICK_HD float from_key<float>(std::int64_t key) {
    return key < 0 ? -float_of(static_cast<std::uint32_t>(-key)) : float_of(static_cast<std::uint32_t>(key));
}
template <>
TALLYSTICK_HD Half from_key<Half>(std::int64_t key) {
    return {static_cast<std::uint16_t>(key < 0 ? 0x8000 - key : key)};
}
template <>
TALLYSTICK_HD Brain from_key<Brain>(std::int64_t key) {
    return {static_cast<std::uint16_t>(key < 0 ? 0x8000 - key : key)};
}

}  // namespace tallystick
