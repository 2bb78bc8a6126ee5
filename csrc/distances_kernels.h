// Loops of distances. By levels.h.
#include "lanes.h"
#include "widen.h"

namespace LEVEL {

constexpr std::size_t kSquare = kBytes == 64   ? 5
                                : kBytes == 32 ? 3
                                               : 2;  // rows x rows whose sums stay in registers

// As many values of T at p as a vector holds values of F, a format that T fits into.
template <class T, class F>
TALLYSTICK_HD typename Lanes<F>::Vec read_as(const char* p) {
    if constexpr (sizeof(F) == 8) {
        return load_widened<T>(p);
    } else {
        return Load<T>::from(p);
    }
}

// One block of one row, at any address, to `to`. The block after it is prefetched. False: a value is not
// finite.
template <class S>
bool pack(const char* from, typename S::F* to) {
    typedef typename S::Value T;
    typedef typename S::F F;
    FiniteCheck<F> check;
    for (std::size_t c = 0; c < kDistanceBlock; c += Lanes<F>::kCount) {
        const auto x = read_as<T, F>(from + c * sizeof(T));
        check.see(x);
        store(to + c, x);
        __builtin_prefetch(from + (c + kDistanceBlock) * sizeof(T), 0, 2);
    }
    return check.finite();
}

// sum + (x - y)^2, or sum + x y.
template <bool kProduct, class Vec>
TALLYSTICK_HD Vec add_term(Vec x, Vec y, Vec sum) {
    if constexpr (kProduct) {
        return fused(x, y, sum);
    } else {
        const Vec t = x - y;
        return fused(t, t, sum);
    }
}

// lanes[0] = their sum, by the fixed tree.
template <class F>
TALLYSTICK_HD F sum_lanes(F* lanes) {
#pragma GCC unroll 4
    for (std::size_t w = kLanes / 2; w > 0; w /= 2)
#pragma GCC unroll 8
        for (std::size_t l = 0; l < w; ++l) lanes[l] += lanes[l + w];
    return lanes[0];
}

#if LEVEL_BYTES >= 32
typedef float EightFloats __attribute__((vector_size(32)));
typedef float FourFloats __attribute__((vector_size(16)));

// The same tree for four times 16 lanes at once: after each step the lanes left of two stand in one vector.
TALLYSTICK_HD FourFloats sum_four_lanes(const float (*lanes)[kLanes]) {
    EightFloats v[4];
#pragma GCC unroll 4
    for (std::size_t k = 0; k < 4; ++k) v[k] = load<EightFloats>(lanes[k]) + load<EightFloats>(lanes[k] + 8);
    const EightFloats a = __builtin_shufflevector(v[0], v[1], 0, 1, 2, 3, 8, 9, 10, 11) +
                          __builtin_shufflevector(v[0], v[1], 4, 5, 6, 7, 12, 13, 14, 15);
    const EightFloats b = __builtin_shufflevector(v[2], v[3], 0, 1, 2, 3, 8, 9, 10, 11) +
                          __builtin_shufflevector(v[2], v[3], 4, 5, 6, 7, 12, 13, 14, 15);
    const EightFloats c = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) +
                          __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    const EightFloats d = __builtin_shufflevector(c, c, 0, 2, 0, 2, 4, 6, 4, 6) +
                          __builtin_shufflevector(c, c, 1, 3, 1, 3, 5, 7, 5, 7);
    return __builtin_shufflevector(d, d, 0, 4, 1, 5);
}
#endif

// totals[k] = the sum of lanes[k], for k < kCount; lanes has room for a multiple of 4.
template <std::size_t kCount, class F>
TALLYSTICK_HD void sum_all_lanes(F (*lanes)[kLanes], F* totals) {
#if LEVEL_BYTES >= 32
    if constexpr (sizeof(F) == 4) {
#pragma GCC unroll 8
        for (std::size_t k = 0; k < kCount; k += 4) store(totals + k, sum_four_lanes(lanes + k));
        return;
    }
#endif
    for (std::size_t k = 0; k < kCount; ++k) totals[k] = sum_lanes(lanes[k]);
}

// sums[i * n + j] = D or G over one block for rows a + i and b + j; kDiagonal: a == b, only i < j (G: i <=
// j).
template <class S, bool kDiagonal>
void square(const typename S::F* packed, std::size_t n, std::size_t a, std::size_t b, double* sums) {
    typedef typename S::F F;
    typedef typename Lanes<F>::Vec Vec;
    constexpr std::size_t kCount = Lanes<F>::kCount, kFrom = S::kProduct ? 0 : 1;
    const F *x[kSquare], *y[kSquare];
    for (std::size_t i = 0; i < kSquare; ++i) {  // beyond the last row: the last row again
        x[i] = packed + (a + i < n ? a + i : n - 1) * kPackedStride;
        y[i] = packed + (b + i < n ? b + i : n - 1) * kPackedStride;
    }
    constexpr std::size_t kPairs = kSquare * kSquare, kRoom = (kPairs + 3) / 4 * 4;
    alignas(64) F lanes[kRoom][kLanes];
    if (kDiagonal) __builtin_memset(lanes, 0, sizeof lanes);  // else but for the room at the end
    if (!kDiagonal) __builtin_memset(lanes + kPairs, 0, sizeof lanes - kPairs * sizeof *lanes);
    for (std::size_t first = 0; first < kLanes; first += kCount) {
        Vec sum[kSquare][kSquare] = {};
#pragma GCC unroll 1
        for (std::size_t c = first; c < kDistanceBlock; c += kLanes) {
            Vec u[kSquare];
#pragma GCC unroll 5
            for (std::size_t i = 0; i < kSquare; ++i) u[i] = load<Vec>(x[i] + c);
#pragma GCC unroll 5
            for (std::size_t j = kDiagonal ? kFrom : 0; j < kSquare; ++j) {
                const Vec v = kDiagonal ? u[j] : load<Vec>(y[j] + c);
#pragma GCC unroll 5
                for (std::size_t i = 0; i < (kDiagonal ? j + 1 - kFrom : kSquare); ++i)
                    sum[i][j] = add_term<S::kProduct>(u[i], v, sum[i][j]);
            }
        }
#pragma GCC unroll 5
        for (std::size_t i = 0; i < kSquare; ++i)
#pragma GCC unroll 5
            for (std::size_t j = kDiagonal ? i + kFrom : 0; j < kSquare; ++j)
                store(lanes[i * kSquare + j] + first, sum[i][j]);
    }
    F totals[kRoom];
    sum_all_lanes<kPairs>(lanes, totals);
    for (std::size_t i = 0; i < kSquare && a + i < n; ++i)
        for (std::size_t j = kDiagonal ? i + kFrom : 0; j < kSquare && b + j < n; ++j)
            sums[(a + i) * n + b + j] = static_cast<double>(totals[i * kSquare + j]);
}

// All pairs i < j (G: i <= j) of n packed rows.
template <class S>
void block_pairs(const typename S::F* packed, std::size_t n, double* sums) {
    for (std::size_t a = 0; a < n; a += kSquare) {
        square<S, true>(packed, n, a, a, sums);
        for (std::size_t b = a + kSquare; b < n; b += kSquare) square<S, false>(packed, n, a, b, sums);
    }
}

// Over one block of two rows at any addresses, D or G of x with x (kNorms) and with y (kOther), each where it
// is wanted. False: a value of x is not finite; no sum is then.
template <class S, bool kNorms, bool kOther>
bool block_single(const char* x, const char* y, double* norm, double* other) {
    typedef typename S::Value T;
    typedef typename S::F F;
    typedef typename Lanes<F>::Vec Vec;
    constexpr std::size_t kCount = Lanes<F>::kCount, kVecs = kLanes / kCount;
    Vec own[kVecs] = {}, both[kVecs] = {};
    for (std::size_t c = 0; c < kDistanceBlock; c += kLanes) {
        __builtin_prefetch(x + (c + kDistanceBlock) * sizeof(T), 0, 2);
#pragma GCC unroll 8
        for (std::size_t v = 0; v < kVecs; ++v) {
            const std::size_t at = (c + v * kCount) * sizeof(T);
            const Vec u = read_as<T, F>(x + at);
            if (kNorms) own[v] = add_term<S::kProduct>(u, u, own[v]);
            if (kOther) both[v] = add_term<S::kProduct>(u, read_as<T, F>(y + at), both[v]);
        }
    }
    F lanes[kLanes], sum = 0;
    if (kNorms) {
        for (std::size_t v = 0; v < kVecs; ++v) store(lanes + v * kCount, own[v]);
        sum = sum_lanes(lanes);
        *norm = static_cast<double>(sum);
    }
    if (kOther) {
        for (std::size_t v = 0; v < kVecs; ++v) store(lanes + v * kCount, both[v]);
        const F with = sum_lanes(lanes);
        *other = static_cast<double>(with);
        if (!kNorms) sum = with;
    }
    if (sum - sum == 0) return true;
    FiniteCheck<F> check;
    for (std::size_t c = 0; c < kDistanceBlock; c += kCount) check.see(read_as<T, F>(x + c * sizeof(T)));
    return check.finite();
}

template <class S>
bool block_norms(const char* x, const char* y, double* norm, double* other) {
    return block_single<S, true, false>(x, y, norm, other);
}
template <class S>
bool block_other(const char* x, const char* y, double* norm, double* other) {
    return block_single<S, false, true>(x, y, norm, other);
}
template <class S>
bool block_both(const char* x, const char* y, double* norm, double* other) {
    return block_single<S, true, true>(x, y, norm, other);
}

}  // namespace LEVEL
