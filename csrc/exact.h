// Weighted means that are correctly rounded: the exact sum(w_i x_i) / sum(w_i), rounded once to the format,
// ties to even. The same source for g++ and nvcc; no arrays, so that a GPU thread needs registers only.
//
// Three tiers, each handing on the columns that it cannot certify:
//   1  a float64 sum (double-double for float64 data) with a bound from max|x|: certain where both ends of
//      the interval round alike;
//   2  TwoSum: the sum as two float64, and the sum of what even they lose; 0 means exact, which settles ties;
//   3  integers: the sign of sum w_i (2 x_i - a - b) for neighbours a, b of the format, by bisection.
// Since every tier gives the same answer, any order of summation, any vector width and any device does too.
//
// Contract: weights are positive, scaled by a power of two so that the largest is in [1, 2) (scale() below);
// x finite; 1 <= n < 2^20 terms. u = 2^-53.
// Sources: Ogita, Rump, Oishi, SIAM J. Sci. Comput. 2005 (Dot2); Boldo, Melquiond, IEEE TC 2008 (to odd).
#pragma once
#include <cmath>  // for fma, on the host
#include <cstddef>
#include <cstdint>

#include "hd.h"
#include "rounding.h"

namespace tallystick {

TALLYSTICK_HD double fused(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
    return fma(a, b, c);
#else
    return __builtin_fma(a, b, c);
#endif
}

// a + b == sum + error exactly, unless the sum overflows.
struct TwoSum {
    double sum, error;
};
TALLYSTICK_HD TwoSum two_sum(double a, double b) {
    const double s = a + b;
    const double from_b = s - a;
    return {s, (a - (s - from_b)) + (b - from_b)};
}

// An overflow as an infinity: where +infinity and -infinity met, +infinity.
TALLYSTICK_HD double without_nan(double x) { return x == x ? x : __builtin_huge_val(); }

// ---- What a call knows of its weights, computed once (aggregate.h: mean_scale). ----

struct MeanScale {
    double total, total_low;  // sum of the weights is total + total_low, up to total_error
    double total_error;
    double inverse;  // 1 / total, rounded
    double step;     // tier 1, float64 sum: |sum / total - mean| <= step * max|x| + kTiny
    double step_dd;  // tier 1, double-double: error of the sum <= step_dd * total * max|x|
    double inexact;  // tier 2: 2^-120 where products may underflow (so that nothing is called exact), else 0
};
constexpr double kTiny = 0x1p-1000;  // more than n underflows can lose

// The range of max|x| in which float64 sums of products neither overflow nor lose bits that count.
template <class T>
TALLYSTICK_HD bool in_range(double largest) {
    return sizeof(T) < 8 || ((largest >= 0x1p-900) & (largest <= 0x1p+990));
}

// ---- Tier 1 ----

// sum: of n products in float64, each addition and multiplication rounded or fused; largest: max|x|.
// True, and out set, where the mean is certain. T: float, Half or Brain.
template <class T>
TALLYSTICK_HD bool certify(double sum, double largest, const MeanScale& scale, T& out) {
    const double q = sum * scale.inverse;
    const double e = largest * scale.step + kTiny;
    out = narrow<T>(q - e);
    return same(out, narrow<T>(q + e));
}

// ---- Tier 2 ----

// The sum is high + low, up to lost.
struct LongSum {
    double high = 0, low = 0, lost = 0;
};
TALLYSTICK_HD void add(LongSum& s, double x) {
    const TwoSum a = two_sum(s.high, x);
    const TwoSum b = two_sum(s.low, a.error);
    s.high = a.sum;
    s.low = b.sum;
    s.lost += magnitude(b.error);
}
TALLYSTICK_HD void add(LongSum& s, double w, double x) {
    const double product = w * x;
    const TwoSum a = two_sum(s.high, product);
    const TwoSum b = two_sum(s.low, a.error);
    const TwoSum c = two_sum(b.sum, fused(w, x, -product));
    s.high = a.sum;
    s.low = c.sum;
    s.lost += magnitude(b.error) + magnitude(c.error);
}
// The cheaper form of tier 1 for float64 data; lost stays 0, the bound is step_dd.
TALLYSTICK_HD void add_unchecked(LongSum& s, double x) {
    const TwoSum a = two_sum(s.high, x);
    s.high = a.sum;
    s.low += a.error;
}
TALLYSTICK_HD void add_unchecked(LongSum& s, double w, double x) {
    const double product = w * x;
    const TwoSum a = two_sum(s.high, product);
    s.high = a.sum;
    s.low += a.error + fused(w, x, -product);
}

// The mean is near + rest, up to error >= 0.
struct Quotient {
    double near, rest, error;
};
TALLYSTICK_HD Quotient divide(const LongSum& s, const MeanScale& scale) {
    const TwoSum sum = two_sum(s.high, s.low);
    const double q = sum.sum / scale.total;
    const double left = fused(-q, scale.total, sum.sum);  // the remainder of a rounded quotient is exact
    const TwoSum both = two_sum(left, sum.error);
    const double low = q * scale.total_low;
    const double rest = (both.sum - low) / scale.total;
    // Nothing lost anywhere: then near + rest is the mean itself, and its ties are settled here.
    const bool exact = (s.lost == 0) & (both.error == 0) & (scale.total_low == 0) & (scale.total_error == 0) &
                       (fused(-rest, scale.total, both.sum) == 0) &
                       ((magnitude(q) >= 0x1p-900) | (sum.sum == 0));
    const double lost = s.lost * (1 + 0x1p-20) + magnitude(q) * scale.total_error +
                        0x1p-50 * (magnitude(left) + magnitude(sum.error) + magnitude(low));
    return {q, rest, exact ? 0.0 : lost * scale.inverse * (1 + 0x1p-40) + kTiny};
}

// a + b rounded to the format once.
template <class T>
TALLYSTICK_HD T narrow_sum(double a, double b) {
    const TwoSum s = two_sum(a, b);
    const std::uint64_t bits = bits_of(s.sum);
    const bool away = (s.error > 0) == (s.sum > 0);
    const bool nudge = (s.error > 0 || s.error < 0) && (bits & 1) == 0;
    return narrow<T>(double_of(nudge ? (away ? bits + 1 : bits - 1) : bits));  // to odd
}
template <>
TALLYSTICK_HD double narrow_sum<double>(double a, double b) {
    return a + b + 0.0;
}

// The interval as values of T; the mean is certain where they are the same.
template <class T>
struct Bracket {
    T low, high;
};
template <class T>
TALLYSTICK_HD Bracket<T> bracket(const Quotient& q) {
    return {narrow_sum<T>(q.near, q.rest - q.error), narrow_sum<T>(q.near, q.rest + q.error)};
}

// ---- Tier 3 ----

__extension__ typedef __int128 Int128;
__extension__ typedef unsigned __int128 Uint128;

// A product of two finite doubles as +-fraction * 2^exponent, fraction < 2^106.
struct Product {
    Uint128 fraction;
    int exponent;
    bool negative;
};
TALLYSTICK_HD Product product(double a, double b) {
    const std::uint64_t ba = bits_of(a), bb = bits_of(b);
    const int ea = static_cast<int>(ba >> 52 & 0x7ff), eb = static_cast<int>(bb >> 52 & 0x7ff);
    constexpr std::uint64_t kHidden = std::uint64_t{1} << 52;
    const std::uint64_t fa = (ba & (kHidden - 1)) | (ea ? kHidden : 0);
    const std::uint64_t fb = (bb & (kHidden - 1)) | (eb ? kHidden : 0);
    return {static_cast<Uint128>(fa) * fb, (ea ? ea : 1) + (eb ? eb : 1), ((ba ^ bb) >> 63) != 0};
}

// The 64 bits of p * 2^raise at and above 2^base, with the sign of p.
TALLYSTICK_HD Int128 slice(const Product& p, int raise, int base) {
    const int shift = p.exponent + raise - base;
    if (shift >= 64 || shift <= -128) return 0;
    const Uint128 moved = shift >= 0 ? p.fraction << shift : p.fraction >> -shift;
    const Int128 digit = static_cast<Int128>(static_cast<std::uint64_t>(moved));
    return p.negative ? -digit : digit;
}

TALLYSTICK_HD void widen_range(const Product& p, int raise, int& lowest, int& highest) {
    if (p.fraction == 0) return;
    const int e = p.exponent + raise;
    lowest = e < lowest ? e : lowest;
    highest = e > highest ? e : highest;
}

// Sign of sum over i of w_i (2 x_i - a - b), exactly.
// Terms: .weight(i) and .value(i) are the double values, 0 <= i < n. From the lowest bits upwards, 64 at a
// time.
template <class Terms>
TALLYSTICK_HD int side_of_midpoint(const Terms& terms, std::size_t n, double a, double b) {
    int lowest = 1 << 20, highest = -(1 << 20);
    for (std::size_t i = 0; i < n; ++i) {
        const double w = terms.weight(i);
        widen_range(product(w, terms.value(i)), 1, lowest, highest);
        widen_range(product(w, a), 0, lowest, highest);
        widen_range(product(w, b), 0, lowest, highest);
    }
    Int128 carry = 0;
    bool below = false;
    for (int base = lowest; base <= highest + 106; base += 64) {
        for (std::size_t i = 0; i < n; ++i) {
            const double w = terms.weight(i);
            carry += slice(product(w, terms.value(i)), 1, base);
            carry -= slice(product(w, a), 0, base) + slice(product(w, b), 0, base);
        }
        below = below || static_cast<std::uint64_t>(carry) != 0;
        carry >>= 64;
    }
    return carry < 0 ? -1 : carry > 0 || below ? 1 : 0;
}

// The mean, known to lie between the values of T with keys low and high (key_of in rounding.h). A caller
// that knows nothing passes -k and k, k the key of max|x|.
template <class T, class Terms>
TALLYSTICK_HD T exact_mean(const Terms& terms, std::size_t n, std::int64_t low, std::int64_t high) {
    while (low < high) {
        const std::int64_t middle = (low >> 1) + (high >> 1) + (low & high & 1);  // no overflow
        const int side = side_of_midpoint(terms, n, static_cast<double>(widen(from_key<T>(middle))),
                                          static_cast<double>(widen(from_key<T>(middle + 1))));
        if (side > 0) {
            low = middle + 1;
        } else if (side < 0) {
            high = middle;
        } else {
            low = high = middle & 1 ? middle + 1 : middle;
        }
    }
    return from_key<T>(low);
}

// The mean of two finite values, for an even median; no overflow inside.
template <class T>
TALLYSTICK_HD T middle_of(double a,
                          double b) {  // of float, Half, Brain values: one is 2^-29 of the other, or
    return narrow<T>((a + b) * 0.5);   // the sum is exact: the second rounding cannot hit a tie
}
template <>
TALLYSTICK_HD double middle_of<double>(double a, double b) {
    const bool large = magnitude(a) >= 0x1p+1000 || magnitude(b) >= 0x1p+1000;
    return (large ? a * 0.5 + b * 0.5 : (a + b) * 0.5) + 0.0;
}

// above - center < center - below, exactly. F: float if all three are floats.
template <class F>
TALLYSTICK_HD bool upper_is_nearer(double below, double above, double center) {
    const TwoSum s = two_sum(above, below);
    const bool nearer = (s.sum < 2 * center) | ((s.sum == 2 * center) & (s.error < 0));
    if constexpr (sizeof(F) == 4) return nearer;
    const bool huge = (magnitude(above) >= 0x1p+1000) | (magnitude(below) >= 0x1p+1000);
    const TwoSum half = two_sum(0.5 * above, 0.5 * below);  // exact there, but for what is too small to count
    return huge ? (half.sum < center) | ((half.sum == center) & (half.error < 0)) : nearer;
}

}  // namespace tallystick
