// Loops of the rules of aggregate.h. By levels.h.
//   rows     n addresses of the first of `columns` values; columns is a multiple of kTile
//   out      room for as many results
//   returns  false if a value was NaN or infinite: the caller finds out whose; out is unspecified there
#include "lanes.h"
//
#include "ahead.h"
//
#include "widen.h"
//
#include "select_kernels.h"

namespace LEVEL {

constexpr std::size_t kFewRows = 16;
constexpr std::size_t kStretchBytes = 4096;  // of float rows of a stretch of sums

// ---- Weighted mean ----

// Sums of a stretch of columns, and max |x|: float64 sums, or double-double ones of float64 data.
template <class F, std::size_t kColumns>
struct Sums {
    alignas(64) double high[kColumns];
    alignas(64) F largest[kColumns];
};
template <std::size_t kColumns>
struct Sums<double, kColumns> {
    alignas(64) double high[kColumns];
    alignas(64) double largest[kColumns];
    alignas(64) double low[kColumns];
};

// to += x; returns what the rounding of that lost.
TALLYSTICK_HD DoubleVec add(DoubleVec& to, DoubleVec x) {
    const DoubleVec sum = to + x, part = sum - to;
    const DoubleVec error = (to - (sum - part)) + (x - part);
    to = sum;
    return error;
}

// Many rows: a stretch of sums in L1, to which rows are added four at a time, so that memory sees long
// sequential reads.  Columns from byte `at` on.
template <class In, bool kWeighted, std::size_t kRows, std::size_t kColumns>
TALLYSTICK_HD void add_rows(const char* const* rows, std::size_t at, const double* weights,
                            Sums<float, kColumns>& sums) {
    const char* p[kRows];
    DoubleVec w[kRows];
    for (std::size_t r = 0; r < kRows; ++r) {
        p[r] = rows[r] + at;
        if constexpr (kWeighted) w[r] = splat(weights[r]);
    }
    for (std::size_t c = 0; c < kColumns; c += kFloats) {
        DoubleVec a = load<DoubleVec>(sums.high + c), b = load<DoubleVec>(sums.high + c + kDoubles);
        FloatVec m = load<FloatVec>(sums.largest + c);
#pragma GCC unroll 4
        for (std::size_t r = 0; r < kRows; ++r) {
            const FloatVec x = Load<In>::from(p[r] + c * sizeof(In));
            __builtin_prefetch(p[r] + c * sizeof(In) + kStretchBytes, 0, 2);
            m = larger_magnitude(m, x);
            if constexpr (kWeighted) {
                a = fused(w[r], to_double(first_half(x)), a);
                b = fused(w[r], to_double(second_half(x)), b);
            } else {
                a += to_double(first_half(x));
                b += to_double(second_half(x));
            }
        }
        store(sums.high + c, a);
        store(sums.high + c + kDoubles, b);
        store(sums.largest + c, m);
    }
}
template <class In, bool kWeighted, std::size_t kRows, std::size_t kColumns>
TALLYSTICK_HD void add_rows(const char* const* rows, std::size_t at, const double* weights,
                            Sums<double, kColumns>& sums) {
    for (std::size_t c = 0; c < kColumns; c += kDoubles) {
        DoubleVec s = load<DoubleVec>(sums.high + c), low = load<DoubleVec>(sums.low + c);
        DoubleVec m = load<DoubleVec>(sums.largest + c);
#pragma GCC unroll 4
        for (std::size_t r = 0; r < kRows; ++r) {
            DoubleVec x = load<DoubleVec>(rows[r] + at + c * sizeof(double));
            m = larger(m, magnitude(x));
            if constexpr (kWeighted) {
                const DoubleVec w = splat(weights[r]), product = w * x;
                low += fused(w, x, -product);
                x = product;
            }
            low += add(s, x);
        }
        store(sums.high + c, s);
        store(sums.low + c, low);
        store(sums.largest + c, m);
    }
}

template <class T>
TALLYSTICK_HD T read(const char* p) {
    T x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
}

// One of the eight columns of `values`, n rows of eight, as exact.h wants it.
template <class F>
struct Column {
    const F* values;
    const double* weights;

    double weight(std::size_t i) const { return weights ? weights[i] : 1.0; }
    double value(std::size_t i) const { return static_cast<double>(values[8 * i]); }
};

// TwoSum sums of n rows of eight values.
template <class F, bool kWeighted>
TALLYSTICK_HD void sum_eight(const F* values, std::size_t n, const double* weights, double* high, double* low,
                             double* lost) {
    constexpr std::size_t kVectors = 8 / kDoubles;
    DoubleVec s[kVectors] = {}, c[kVectors] = {}, e[kVectors] = {};
    for (std::size_t i = 0; i < n; ++i)
#pragma GCC unroll 4
        for (std::size_t k = 0; k < kVectors; ++k) {
            const F* p = values + 8 * i + k * kDoubles;
            DoubleVec x;
            if constexpr (__is_same(F, double)) {
                x = load<DoubleVec>(p);
            } else {
                x = to_double(load<HalfFloatVec>(p));
            }
            if constexpr (kWeighted) {
                const DoubleVec w = splat(weights[i]), product = w * x;
                e[k] += magnitude(add(c[k], fused(w, x, -product)));
                x = product;
            }
            e[k] += magnitude(add(c[k], add(s[k], x)));
        }
#pragma GCC unroll 4
    for (std::size_t k = 0; k < kVectors; ++k) {
        store(high + k * kDoubles, s[k]);
        store(low + k * kDoubles, c[k]);
        store(lost + k * kDoubles, e[k]);
    }
}

// Tiers 2 and 3 for what is in pending; empties it.
template <class Out, class F>
__attribute__((noinline)) void refine(Pending<F>& pending, std::size_t n, const MeanArguments& a) {
    const std::size_t count = pending.count;
    if (count == 0) return;
    alignas(64) double high[8], low[8], lost[8];
    if (a.weights) {
        sum_eight<F, true>(pending.values, n, a.weights, high, low, lost);
    } else {
        sum_eight<F, false>(pending.values, n, nullptr, high, low, lost);
    }
    Out first[8], last[8];
    const MeanScale scale = a.scale;
    for (std::size_t j = 0; j < 8; ++j) lost[j] += pending.largest[j] * scale.inexact;
    for (std::size_t j = 0; j < 8; ++j) {
        const Bracket<Out> b = bracket<Out>(divide({high[j], low[j], lost[j]}, scale));
        first[j] = b.low;
        last[j] = b.high;
    }
    pending.count = 0;
    pending.redone.second += count;
    for (std::size_t j = 0; j < count; ++j) {
        const bool usable = in_range<Out>(pending.largest[j]) && high[j] - high[j] == 0;
        if (!usable || !same(first[j], last[j])) {
            ++pending.redone.third;
            const Column<F> column{pending.values + j, a.weights};
            const std::int64_t limit = key_of(narrow<Out>(pending.largest[j]));
            std::int64_t from = -limit, to = limit;
            if (usable) {
                from = key_of(first[j]) > from ? key_of(first[j]) : from;
                to = key_of(last[j]) < to ? key_of(last[j]) : to;
            }
            first[j] = exact_mean<Out>(column, n, from, to);
        }
        __builtin_memcpy(pending.out[j], &first[j], sizeof first[j]);
    }
}

// Puts the column at rows[i] + at, with max|x|, beside the others until eight are there.
template <class In, class Out, class F>
__attribute__((noinline)) void postpone(const char* const* rows, std::size_t n, std::size_t at, char* out,
                                        double sum, double largest, const MeanArguments& a,
                                        Pending<F>& pending) {
    const std::size_t j = pending.count;
    for (std::size_t i = 0; i < n; ++i) pending.values[8 * i + j] = widen(read<In>(rows[i] + at));
    if (!(sum - sum == 0))  // overflow, or a NaN or infinity, which the caller reports
        for (std::size_t i = 0; i < n; ++i) {
            const double x = magnitude(static_cast<double>(pending.values[8 * i + j]));
            if (!(x - x == 0)) return;
            largest = largest < x ? x : largest;
        }
    pending.largest[j] = largest;
    pending.out[j] = out;
    if (++pending.count == 8) refine<Out>(pending, n, a);
}

// A column of float64 data after tier 1: sum high + low; false: open.
TALLYSTICK_HD bool settle(double high, double low, double largest, const MeanScale& scale, double& out) {
    const Bracket<double> b =
        bracket<double>(divide({high, low, scale.step_dd * scale.total * largest}, scale));
    out = largest == 0 ? 0.0 : b.low;
    return (largest == 0) | (in_range<double>(largest) & (b.low == b.high));
}

// What certify() in exact.h does, for a register of floats: their sums, max |x|, and, of equal weights, min
// |x| (0: unknown).
struct SumVec {
    DoubleVec first, second;
    FloatVec largest, smallest;
};
// What certify() in exact.h does: the results to out; bit j is set where that of column j is open.
template <class Out>
TALLYSTICK_HD std::uint64_t certify(const SumVec& sum, const MeanScale& scale, char* out) {
    const DoubleVec inverse = splat(scale.inverse), step = splat(scale.step), tiny = splat(kTiny);
    const DoubleVec p = sum.first * inverse, q = sum.second * inverse;
    const DoubleVec d = fused(to_double(first_half(sum.largest)), step, tiny);
    const DoubleVec e = fused(to_double(second_half(sum.largest)), step, tiny);
    if constexpr (__is_same(Out, float)) {
        const FloatVec low = join(to_float(p - d), to_float(q - e));
        store(out, low + 0.0f);
        return unequal(low, join(to_float(p + d), to_float(q + e)));
    } else {  // bounds in float, which loses 2^-24 of the mean and as much of each bound
        const FloatVec near = join(to_float(p), to_float(q));
        const FloatVec bound =
            magnitude(near) * 0x1p-22f + join(to_float(d), to_float(e)) * 1.01f + 0x1p-140f;
        const ShortVec low = narrow_short<Out>(near - bound);
        store(out, low);
        return unequal(low, narrow_short<Out>(near + bound));
    }
}

// Sums of n equal weights that are exact, and whose means are exact too: those, and all ones for them. They
// are what tier 1 cannot settle where a mean lies just between two values.
template <class Out>
TALLYSTICK_HD void settle_exact(const SumVec& sum, std::size_t n, double total, char* out,
                                std::uint64_t* settled) {
    const DoubleVec divisor = splat(total), p = sum.first / divisor, q = sum.second / divisor;
    const HalfFloatVec u = to_float(p), v = to_float(q);
    const double from = exact_from(n);
    const auto is_exact = [&](DoubleVec s, DoubleVec mean, HalfFloatVec near, HalfFloatVec largest,
                              HalfFloatVec least) {
        const DoubleVec m = to_double(largest), l = to_double(least);
        auto exact = (fused(-mean, divisor, s) == 0) & (l > 0) & (l >= m * from);
        if constexpr (sizeof(Out) == 2) exact &= to_double(near) == mean;  // else it would be rounded twice
        return exact;
    };
    store(settled, is_exact(sum.first, p, u, first_half(sum.largest), first_half(sum.smallest)));
    store(settled + kDoubles,
          is_exact(sum.second, q, v, second_half(sum.largest), second_half(sum.smallest)));
    if constexpr (sizeof(Out) == 2) {
        store(out, narrow_short<Out>(join(u, v)));
    } else {
        store(out, join(u, v) + 0.0f);
    }
}

// Columns that tier 1 leaves open: bit j of `open` is the one at rows[i] + at + j values. Of equal weights, a
// tie is settled here where the sum is exact.
template <class In, class Out, bool kWeighted>
__attribute__((noinline)) void settle_open(std::uint64_t open, const SumVec& sum, const char* const* rows,
                                           std::size_t n, std::size_t at, const MeanArguments& a, char* out,
                                           Pending<float>& pending) {
    alignas(64) double sums[kFloats];
    alignas(64) float largest[kFloats], smallest[kFloats];
    alignas(64) std::uint64_t settled[kFloats] = {};
    Out exact[kFloats] = {};
    store(sums, sum.first);
    store(sums + kDoubles, sum.second);
    store(largest, sum.largest);
    store(smallest, sum.smallest);
    if constexpr (!kWeighted && sizeof(Out) == 2)  // ties are many there; of floats one at a time is cheaper
        settle_exact<Out>(sum, n, a.scale.total, reinterpret_cast<char*>(exact), settled);
    for (; open; open &= open - 1) {
        const auto j = static_cast<std::size_t>(__builtin_ctzll(open));
        const double most = static_cast<double>(largest[j]), least = static_cast<double>(smallest[j]);
        char* const to = out + j * sizeof(Out);
        if (settled[j]) {
            __builtin_memcpy(to, exact + j, sizeof(Out));
        } else if (!kWeighted && least > 0 && least >= most * exact_from(n)) {
            const Out result = narrow_ratio<Out>(sums[j], a.scale.total);
            __builtin_memcpy(to, &result, sizeof result);
        } else {
            postpone<In, Out>(rows, n, at + j * sizeof(In), to, sums[j], most, a, pending);
        }
    }
}

// Means of few rows of floats, or of rows in L1, with all that belongs to some columns in registers.
// kOrdered: the first and the last row bound the others.
template <class In, class Out, bool kWeighted, bool kOrdered>
TALLYSTICK_HD bool mean_in_registers(const char* const* rows, std::size_t n, std::size_t at,
                                     std::size_t columns, const MeanArguments& a, char* out,
                                     Pending<float>& pending) {
    constexpr std::size_t kMost = kBytes == 64 ? 4 : 2;  // as many vectors as there are registers for
    FiniteCheck<double> check;
    struct Open {
        SumVec sum;
        std::uint64_t open;
        std::size_t column;
    } late[kTile / kFloats];
    std::size_t count = 0;
    for (std::size_t c = 0; c < columns;) {
        const auto run = [&]<std::size_t kVectors>() {
            DoubleVec s[2 * kVectors] = {};
            FloatVec m[kVectors] = {}, least[kVectors] = {};
            for (std::size_t k = 0; k < kVectors && !kWeighted; ++k)
                least[k] = magnitude(Load<In>::from(rows[0] + at + (c + k * kFloats) * sizeof(In)));
            for (std::size_t i = 0; i < n; ++i) {
                const char* p = rows[i] + at + c * sizeof(In);
                DoubleVec w;
                if constexpr (kWeighted) w = splat(a.weights[i]);
#pragma GCC unroll 4
                for (std::size_t k = 0; k < kVectors; ++k, p += kFloats * sizeof(In)) {
                    const FloatVec x = Load<In>::from(p);
                    if constexpr (!kOrdered) m[k] = larger_magnitude(m[k], x);
                    const DoubleVec u = load_widened<In>(p), v = load_widened<In>(p + kDoubles * sizeof(In));
                    if constexpr (kWeighted) {
                        s[2 * k] = fused(w, u, s[2 * k]);
                        s[2 * k + 1] = fused(w, v, s[2 * k + 1]);
                    } else {
                        least[k] = smaller_magnitude(least[k], x);
                        s[2 * k] += u;
                        s[2 * k + 1] += v;
                    }
                }
            }
#pragma GCC unroll 4
            for (std::size_t k = 0; k < kVectors; ++k) {
                const std::size_t j = at + (c + k * kFloats) * sizeof(In);
                if constexpr (kOrdered)
                    m[k] = larger_magnitude(magnitude(Load<In>::from(rows[0] + j)),
                                            Load<In>::from(rows[n - 1] + j));
                check.see(s[2 * k]);
                check.see(s[2 * k + 1]);
                const SumVec sum{s[2 * k], s[2 * k + 1], m[k], least[k]};
                const std::uint64_t open = certify<Out>(sum, a.scale, out + (c + k * kFloats) * sizeof(Out));
                if (open) late[count++] = {sum, open, c + k * kFloats};  // a call here would spill registers
            }
            c += kVectors * kFloats;
        };
        if (columns - c >= kMost * kFloats) {
            run.template operator()<kMost>();
        } else {
            run.template operator()<1>();
        }
    }
    for (std::size_t k = 0; k < count; ++k)
        settle_open<In, Out, kWeighted>(late[k].open, late[k].sum, rows, n, at + late[k].column * sizeof(In),
                                        a, out + late[k].column * sizeof(Out), pending);
    return check.finite();
}

// The mean of kColumns columns from byte `at` on.  kOrdered: as in mean_in_registers.
template <class In, class Out, bool kWeighted, bool kOrdered, std::size_t kColumns, class F>
TALLYSTICK_HD bool mean_stretch(const char* const* rows, std::size_t n, std::size_t at,
                                const MeanArguments& a, char* out, Pending<F>& pending) {
    if constexpr (kColumns <= kTile && !__is_same(Out, double)) {
        return mean_in_registers<In, Out, kWeighted, kOrdered>(rows, n, at, kColumns, a, out, pending);
    } else {
        Sums<F, kColumns> sums;
        __builtin_memset(&sums, 0, sizeof sums);
        const double* w = a.weights;
        std::size_t i = 0;
        for (; i + 4 <= n; i += 4, w += kWeighted ? 4 : 0) add_rows<In, kWeighted, 4>(rows + i, at, w, sums);
        for (; i < n; ++i, w += kWeighted) add_rows<In, kWeighted, 1>(rows + i, at, w, sums);
        FiniteCheck<double> check;
        for (std::size_t j = 0; j < kColumns; j += kDoubles) check.see(load<DoubleVec>(sums.high + j));
        const bool finite = check.finite();
        if constexpr (!__is_same(Out, double)) {
            for (std::size_t j = 0; j < kColumns && finite; j += kFloats) {
                const SumVec sum{load<DoubleVec>(sums.high + j),
                                 load<DoubleVec>(sums.high + j + kDoubles),
                                 load<FloatVec>(sums.largest + j),
                                 {}};
                char* const to = out + j * sizeof(Out);
                const std::uint64_t open = certify<Out>(sum, a.scale, to);
                if (open)
                    settle_open<In, Out, kWeighted>(open, sum, rows, n, at + j * sizeof(In), a, to, pending);
            }
        } else {  // sums of float64 may also overflow: go on if not finite
            double results[kColumns];
            bool certain[kColumns];
            for (std::size_t j = 0; j < kColumns; ++j)
                certain[j] = settle(sums.high[j], sums.low[j], sums.largest[j], a.scale, results[j]);
            __builtin_memcpy(out, results, sizeof results);
            for (std::size_t j = 0; j < kColumns; ++j)
                if (!certain[j])
                    postpone<In, Out>(rows, n, at + j * sizeof(In), out + j * sizeof(Out), sums.high[j],
                                      sums.largest[j], a, pending);
        }
        return finite;
    }
}

template <class T, bool kWeighted, class F>
TALLYSTICK_HD bool mean_any(const char* const* rows, std::size_t n, std::size_t columns,
                            const MeanArguments& a, char* out, Pending<F>& pending) {
    constexpr std::size_t kStretch = kStretchBytes / sizeof(F);  // 12 KiB of sums
    bool finite = true;
    std::size_t c = 0;
    for (; n > kFewRows && c + kStretch <= columns; c += kStretch)
        finite = mean_stretch<T, T, kWeighted, false, kStretch>(rows, n, c * sizeof(T), a,
                                                                out + c * sizeof(T), pending) &&
                 finite;
    for (; c < columns; c += kTile) {
        Ahead::share<T>(rows, n, c, kTile).fetch_all();
        finite = mean_stretch<T, T, kWeighted, false, kTile>(rows, n, c * sizeof(T), a, out + c * sizeof(T),
                                                             pending) &&
                 finite;
    }
    refine<T>(pending, n, a);
    return finite;
}

template <class T>
bool mean(const char* const* rows, std::size_t n, std::size_t columns, const MeanArguments& a, char* out,
          Pending<Widened<T>>& pending) {
    return a.weights ? mean_any<T, true>(rows, n, columns, a, out, pending)
                     : mean_any<T, false>(rows, n, columns, a, out, pending);
}

// ---- Median and trimmed mean, on select_kernels.h ----

template <class T>
TALLYSTICK_HD void select_tile(const char* const* rows, std::size_t c, const SelectPlan& plan, T* tile,
                               WatchOf<T>& watch) {
    const Ahead ahead = Ahead::share<T>(rows, plan.n, c, plan.width);
    select<T>(rows, c * sizeof(T), plan, reinterpret_cast<KeyOf<T>*>(tile), ahead, watch);
}

// Up to kBlock rows of float32: the middle of their middle two, without a tile.
template <std::size_t N>
void median_of_few(const char* const* rows, std::size_t columns, const SelectPlan& plan, char* out,
                   WatchOf<float>& watch) {
    constexpr std::size_t kLow = (N - 1) / 2, kHigh = N / 2;
    const bool lower = plan.high == kLow, upper = plan.low == kHigh;
    WatchOf<float> seen = watch;
    for (std::size_t c = 0; c < columns; c += kFloats) {
        if (c % kTile == 0) Ahead::share<float>(rows, N, c, kTile).fetch_all();
        IntVec v[N];
        load_rows<float>(rows, c * sizeof(float), v);
        select_middle<float>(v, seen);
        const FloatVec low = reinterpret_cast<FloatVec>(flip(v[kLow]));
        const FloatVec high = reinterpret_cast<FloatVec>(flip(v[kHigh]));
        const FloatVec result = lower ? low + 0.0f : upper ? high + 0.0f : middle_of_floats(low, high);
        store(out + c * sizeof(float), result);
    }
    watch = seen;
}
constexpr decltype(&median_of_few<1>) kMedianOfFew[kBlock] = {
    &median_of_few<1>,  &median_of_few<2>,  &median_of_few<3>,  &median_of_few<4>,
    &median_of_few<5>,  &median_of_few<6>,  &median_of_few<7>,  &median_of_few<8>,
    &median_of_few<9>,  &median_of_few<10>, &median_of_few<11>, &median_of_few<12>,
    &median_of_few<13>, &median_of_few<14>, &median_of_few<15>, &median_of_few<16>};

template <class T>
bool median(const char* const* rows, std::size_t columns, const SelectPlan& plan, const SelectWork& work,
            char* out) {
    WatchOf<T> watch;
    if constexpr (__is_same(T, float)) {
        if (plan.n <= kBlock) {
            kMedianOfFew[plan.n - 1](rows, columns, plan, out, watch);
            return watch.finite();
        }
    }
    T* const tile = static_cast<T*>(work.tile);
    for (std::size_t c = 0; c < columns; c += plan.width) {
        select_tile<T>(rows, c, plan, tile, watch);
        const T* low = tile + plan.low * kStride<T>;
        const T* high = tile + plan.high * kStride<T>;
        T results[kTile];
        if constexpr (__is_same(T, float)) {
            for (std::size_t j = 0; j < plan.width; j += kFloats)
                store(results + j, middle_of_floats(load<FloatVec>(low + j), load<FloatVec>(high + j)));
        } else if (low == high) {
            for (std::size_t j = 0; j < plan.width; ++j) results[j] = narrow<T>(widen(low[j]));
        } else {
            for (std::size_t j = 0; j < plan.width; ++j)
                results[j] = middle_of<T>(widen(low[j]), widen(high[j]));
        }
        __builtin_memcpy(out + c * sizeof(T), results, plan.width * sizeof(T));
    }
    return watch.finite();
}

template <class T>
bool trimmed_mean(const char* const* rows, std::size_t columns, const SelectPlan& plan,
                  const SelectWork& work, const MeanArguments& a, char* out, Pending<Widened<T>>& pending) {
    WatchOf<T> watch;
    T* const tile = static_cast<T*>(work.tile);
    const char* const* kept = work.tile_rows + plan.low;
    const std::size_t count = plan.high - plan.low + 1;
    for (std::size_t c = 0; c < columns; c += plan.width) {
        select_tile<T>(rows, c, plan, tile, watch);
        char* o = out + c * sizeof(T);
        if (plan.width == 64) {
            mean_stretch<T, T, false, true, 64>(kept, count, 0, a, o, pending);
        } else if (plan.width == 32) {
            mean_stretch<T, T, false, true, 32>(kept, count, 0, a, o, pending);
        } else {
            mean_stretch<T, T, false, true, 16>(kept, count, 0, a, o, pending);
        }
    }
    refine<T>(pending, count, a);
    return watch.finite();
}

// ---- Means of the values nearest to a center ----

// Brings the n - f values nearest to the center onto rows 0 .. n - f - 1 of n sorted rows: `stride` values
// apart. Those are consecutive ranks s .. s + n - f - 1; from s = 0 on, rank s gives way to rank s + n - f
// as long as that is nearer. Row s % (n - f) holds rank s then, and row s still does if it is another row.
template <class F>
TALLYSTICK_HD void keep_nearest(F* rows, std::size_t stride, std::size_t n, std::size_t f, const F* center,
                                std::size_t width) {
    const std::size_t kept = n - f;
    for (std::size_t s = 0; s < f; ++s) {
        const F* const below = rows + s * stride;
        const F* const above = rows + (s + kept) * stride;
        F* const slot = rows + s % kept * stride;
        for (std::size_t j = 0; j < width; ++j) {
            slot[j] = upper_is_nearer<F>(below[j], above[j], center[j]) ? above[j] : slot[j];
        }
    }
}

template <class T, std::size_t kWidth, class F>
TALLYSTICK_HD void nearest_mean_tile(F* tile, std::size_t stride, const char* const* rows, std::size_t n,
                                     std::size_t f, Center center, const MeanArguments& trimmed,
                                     const MeanArguments& a, char* out, Pending<F>& pending) {
    T middle[kWidth];
    F from[kWidth];
    if (center == Center::trimmed_mean) {
        mean_stretch<F, T, false, true, kWidth>(rows + f, n - 2 * f, 0, trimmed,
                                                reinterpret_cast<char*>(middle), pending);
        refine<T>(pending, n - 2 * f, trimmed);
    } else {
        const F* low = tile + (n - 1) / 2 * stride;
        const F* high = tile + n / 2 * stride;
        for (std::size_t j = 0; j < kWidth; ++j) middle[j] = middle_of<T>(low[j], high[j]);
    }
    for (std::size_t j = 0; j < kWidth; ++j) from[j] = widen(middle[j]);
    keep_nearest(tile, stride, n, f, from, kWidth);
    mean_stretch<F, T, false, false, kWidth>(rows, n - f, 0, a, out, pending);
}

template <class T>
bool nearest_mean(const char* const* rows, std::size_t columns, const SelectPlan& plan,
                  const SelectWork& work, std::size_t f, Center center, const MeanArguments& trimmed,
                  const MeanArguments& a, char* out, Pending<Widened<T>>& pending) {
    typedef Widened<T> F;
    WatchOf<T> watch;
    T* const tile = static_cast<T*>(work.tile);
    F* const wide = static_cast<F*>(work.wide);
    for (std::size_t c = 0; c < columns; c += plan.width) {
        select_tile<T>(rows, c, plan, tile, watch);
        for (std::size_t i = 0; i < plan.n && sizeof(T) == 2; ++i)
            for (std::size_t j = 0; j < plan.width; j += kFloats)
                store(wide + i * kStride<F> + j, Load<T>::from(tile + i * kStride<T> + j));
        char* const o = out + c * sizeof(T);
        if (plan.width == 64) {
            nearest_mean_tile<T, 64>(wide, kStride<F>, work.wide_rows, plan.n, f, center, trimmed, a, o,
                                     pending);
        } else if (plan.width == 32) {
            nearest_mean_tile<T, 32>(wide, kStride<F>, work.wide_rows, plan.n, f, center, trimmed, a, o,
                                     pending);
        } else {
            nearest_mean_tile<T, 16>(wide, kStride<F>, work.wide_rows, plan.n, f, center, trimmed, a, o,
                                     pending);
        }
        refine<T>(pending, plan.n - f, a);
    }
    return watch.finite();
}

// ---- Majority of signs ----

template <class T>
bool majority(const char* const* rows, std::size_t n, std::size_t columns, char* out) {
    typedef Widened<T> F;
    typedef typename Lanes<F>::Vec Vec;
    FiniteCheck<F> check;
    for (std::size_t c = 0; c < columns; c += Lanes<F>::kCount) {
        Vec votes = {};
        for (std::size_t i = 0; i < n; ++i) {
            const Vec x = Load<T>::from(rows[i] + c * sizeof(T)), none = {}, one = none + 1;
            check.see(x);
            votes += (x > 0 ? one : none) - (x < 0 ? one : none);
        }
        const Vec none = {}, one = none + 1, sign = votes > 0 ? one : votes < 0 ? -one : none;
        if constexpr (sizeof(T) == 2) {
            store(out + c * sizeof(T), narrow_short<T>(sign));
        } else {
            store(out + c * sizeof(T), sign);
        }
    }
    return check.finite();
}

// ---- Who was it, and the yardstick. ----

template <class T>
bool all_finite(const char* row, std::size_t columns) {
    FiniteCheck<Widened<T>> check;
    constexpr std::size_t kCount = Lanes<Widened<T>>::kCount;
    std::size_t c = 0;
    for (; c + kCount <= columns; c += kCount) check.see(Load<T>::from(row + c * sizeof(T)));
    bool finite = check.finite();
    for (; c < columns; ++c) {
        const auto x = widen(read<T>(row + c * sizeof(T)));
        finite = finite && x - x == 0;
    }
    return finite;
}

float stream_read(const float* x, std::size_t size) {
    FloatVec s[8] = {};
    std::size_t c = 0;
    for (; c + 8 * kFloats <= size; c += 8 * kFloats)
#pragma GCC unroll 8
        for (std::size_t k = 0; k < 8; ++k) s[k] += load<FloatVec>(x + c + k * kFloats);
    float total = 0;
    for (std::size_t k = 0; k < 8; ++k)
        for (std::size_t j = 0; j < kFloats; ++j) total += s[k][j];
    for (; c < size; ++c) total += x[c];
    return total;
}

}  // namespace LEVEL
