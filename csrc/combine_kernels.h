// Loops of combine. By levels.h.
#include "lanes.h"
//
#include "ahead.h"
//
#include "widen.h"

namespace LEVEL {

constexpr std::size_t kFewRows = 16, kAtOnce = 8;
constexpr std::size_t kStretchBytes = 4096;  // of float rows, of a stretch of sums

template <std::size_t kColumns>
struct Sums {
    alignas(64) double high[kColumns];
    alignas(64) double low[kColumns];  // of float64 data
};

// high + low += w * x.
TALLYSTICK_HD void add_product(DoubleVec& high, DoubleVec& low, DoubleVec w, DoubleVec x) {
    const DoubleVec p = w * x, sum = high + p, part = sum - high;
    low += ((high - (sum - part)) + (p - part)) + fused(w, x, -p);
    high = sum;
}

// Many rows: a stretch of sums in L1, to which rows are added four at a time, so that memory sees long
// sequential reads. Columns from byte `at` on.
template <class In, std::size_t kRows, std::size_t kColumns>
TALLYSTICK_HD void add_rows(const char* const* rows, std::size_t at, const double* weights,
                            Sums<kColumns>& sums) {
    const char* p[kRows];
    DoubleVec w[kRows];
    for (std::size_t r = 0; r < kRows; ++r) {
        p[r] = rows[r] + at;
        w[r] = splat(weights[r]);
    }
    if constexpr (__is_same(In, double)) {
        for (std::size_t c = 0; c < kColumns; c += kDoubles) {
            DoubleVec high = load<DoubleVec>(sums.high + c), low = load<DoubleVec>(sums.low + c);
#pragma GCC unroll 8
            for (std::size_t r = 0; r < kRows; ++r) {
                __builtin_prefetch(p[r] + c * sizeof(In) + kStretchBytes, 0, 2);
                add_product(high, low, w[r], load<DoubleVec>(p[r] + c * sizeof(In)));
            }
            store(sums.high + c, high);
            store(sums.low + c, low);
        }
    } else {
        for (std::size_t c = 0; c < kColumns; c += kFloats) {
            DoubleVec a = load<DoubleVec>(sums.high + c), b = load<DoubleVec>(sums.high + c + kDoubles);
#pragma GCC unroll 8
            for (std::size_t r = 0; r < kRows; ++r) {
                const char* const x = p[r] + c * sizeof(In);
                __builtin_prefetch(x + kStretchBytes, 0, 2);
                a = fused(w[r], load_widened<In>(x), a);
                b = fused(w[r], load_widened<In>(x + kDoubles * sizeof(In)), b);
            }
            store(sums.high + c, a);
            store(sums.high + c + kDoubles, b);
        }
    }
}

// Few rows: sums of a few vectors of columns at a time, in registers.
template <class In, std::size_t kColumns>
TALLYSTICK_HD void sum_rows(const char* const* rows, std::size_t n, std::size_t at, const double* weights,
                            Sums<kColumns>& sums) {
    constexpr std::size_t kVectors = kBytes == 64 ? 8 : 4;  // of doubles
    constexpr std::size_t kStep = kVectors * kDoubles;
    for (std::size_t c = 0; c < kColumns; c += kStep) {
        DoubleVec high[kVectors] = {}, low[kVectors] = {};
        for (std::size_t i = 0; i < n; ++i) {
            const char* p = rows[i] + at + c * sizeof(In);
            const DoubleVec w = splat(weights[i]);
            if constexpr (__is_same(In, double)) {
#pragma GCC unroll 8
                for (std::size_t k = 0; k < kVectors; ++k)
                    add_product(high[k], low[k], w, load<DoubleVec>(p + k * kBytes));
            } else {
#pragma GCC unroll 8
                for (std::size_t k = 0; k < kVectors; ++k)
                    high[k] = fused(w, load_widened<In>(p + k * kDoubles * sizeof(In)), high[k]);
            }
        }
#pragma GCC unroll 8
        for (std::size_t k = 0; k < kVectors; ++k) {
            store(sums.high + c + k * kDoubles, high[k]);
            if constexpr (__is_same(In, double)) store(sums.low + c + k * kDoubles, low[k]);
        }
    }
}

// Rounds the sums to out; false if one is not finite.
template <class T, std::size_t kColumns>
TALLYSTICK_HD bool round_sums(Sums<kColumns>& sums, char* out) {
    FiniteCheck<double> check;
    for (std::size_t j = 0; j < kColumns; j += kDoubles) check.see(load<DoubleVec>(sums.high + j));
    const bool finite = check.finite();
    if (!finite)
        for (std::size_t j = 0; j < kColumns; ++j) sums.high[j] = without_nan(sums.high[j]);
    T results[kColumns];
    for (std::size_t j = 0; j < kColumns; ++j) {
        if constexpr (__is_same(T, double)) {
            const double sum = sums.high[j] + sums.low[j];  // beside an infinity, low is a NaN
            results[j] = (sum == sum ? sum : sums.high[j]) + 0.0;
        } else {
            results[j] = narrow<T>(sums.high[j]);
        }
    }
    __builtin_memcpy(out, results, sizeof results);
    return finite;
}

// Columns: a multiple of kTile. False if a sum was not finite: by a NaN or infinity, or by overflow.
template <class T>
bool combine(const char* const* rows, std::size_t n, std::size_t columns, const double* weights, char* out) {
    constexpr std::size_t kStretch = kStretchBytes / sizeof(Widened<T>);
    bool finite = true;
    std::size_t c = 0;
    for (; n > kFewRows && c + kStretch <= columns; c += kStretch) {
        Sums<kStretch> sums;
        __builtin_memset(&sums, 0, sizeof sums);
        std::size_t i = 0;
        for (; i + kAtOnce <= n; i += kAtOnce)
            add_rows<T, kAtOnce>(rows + i, c * sizeof(T), weights + i, sums);
        if (i + 4 <= n) {
            add_rows<T, 4>(rows + i, c * sizeof(T), weights + i, sums);
            i += 4;
        }
        if (n - i == 3) add_rows<T, 3>(rows + i, c * sizeof(T), weights + i, sums);
        if (n - i == 2) add_rows<T, 2>(rows + i, c * sizeof(T), weights + i, sums);
        if (n - i == 1) add_rows<T, 1>(rows + i, c * sizeof(T), weights + i, sums);
        finite = round_sums<T>(sums, out + c * sizeof(T)) && finite;
    }
    for (; c < columns; c += kTile) {
        Ahead::share<T>(rows, n, c, kTile).fetch_all();
        Sums<kTile> sums;
        sum_rows<T>(rows, n, c * sizeof(T), weights, sums);
        finite = round_sums<T>(sums, out + c * sizeof(T)) && finite;
    }
    return finite;
}

}  // namespace LEVEL
