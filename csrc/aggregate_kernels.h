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

// |x| of the terms of a sum, as twice their bits. A zero is no term: least knows nothing of it.
struct Spread {
    WordVec most = {}, least = WordVec{} - 1u;
    TALLYSTICK_HD void see(FloatVec x) {
        const WordVec bits = reinterpret_cast<WordVec>(x), twice = bits + bits;
        most = larger(most, twice);
        least = smaller(least, twice - 1u);
    }
    TALLYSTICK_HD FloatVec largest() const { return reinterpret_cast<FloatVec>(most >> 1); }
};
// Whether a kernel looks at sizes of terms: sums of equal weights and Half are exact without that.
template <class Out, bool kWeighted>
constexpr bool kSpread = kWeighted || !__is_same(Out, Half);

// Sums of a stretch of columns: in float64, or double-double with max |x| of float64 data.
template <class F, std::size_t kColumns>
struct Sums {
    alignas(64) double high[kColumns];
    alignas(64) std::uint32_t most[kColumns], least[kColumns];
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

// Many rows: a stretch of sums in L1, to which rows are added some at a time, so that memory sees long
// sequential reads.  Columns from byte `at` on; kFirst: nothing was added before.
template <class In, bool kWeighted, bool kFirst, std::size_t kRows, std::size_t kColumns>
TALLYSTICK_HD void add_rows(const char* const* rows, std::size_t at, const double* weights,
                            Sums<float, kColumns>& sums) {
    const char* p[kRows];
    DoubleVec w[kRows];
    for (std::size_t r = 0; r < kRows; ++r) {
        p[r] = rows[r] + at;
        if constexpr (kWeighted) w[r] = splat(weights[r]);
    }
    for (std::size_t c = 0; c < kColumns; c += kFloats) {
        DoubleVec a = {}, b = {};
        Spread spread;
        if constexpr (!kFirst) {
            a = load<DoubleVec>(sums.high + c);
            b = load<DoubleVec>(sums.high + c + kDoubles);
            if constexpr (kSpread<In, kWeighted>) spread.most = load<WordVec>(sums.most + c);
            if constexpr (kSpread<In, kWeighted> && !kWeighted) spread.least = load<WordVec>(sums.least + c);
        }
#pragma GCC unroll 8
        for (std::size_t r = 0; r < kRows; ++r) {
            const FloatVec x = Load<In>::from(p[r] + c * sizeof(In));
            __builtin_prefetch(p[r] + c * sizeof(In) + kStretchBytes, 0, 2);
            spread.see(x);
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
        if constexpr (kSpread<In, kWeighted>) store(sums.most + c, spread.most);
        if constexpr (kSpread<In, kWeighted> && !kWeighted) store(sums.least + c, spread.least);
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

// What certify() in exact.h does, for a register of columns: the results to out; bit j is set where that of
// column j is open.
template <class Out>
TALLYSTICK_HD std::uint64_t certify(DoubleVec first, DoubleVec second, FloatVec largest,
                                    const MeanScale& scale, char* out) {
    const DoubleVec inverse = splat(scale.inverse), step = splat(scale.step), tiny = splat(kTiny);
    const DoubleVec p = first * inverse, q = second * inverse;
    const DoubleVec d = fused(to_double(first_half(largest)), step, tiny);
    const DoubleVec e = fused(to_double(second_half(largest)), step, tiny);
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

// Of n equal weights. Sums in float64 are exact if all terms are multiples of some 2^q and n of the largest
// are below 2^(q + 53): known from their spread. Rounding s / n to float64 then brings it onto no midpoint m
// of the format's neighbours: s - n m is a multiple of an ulp of s, and that is more than n times half an ulp
// of m. So rounding again gives what rounding once does, ties included.
struct EqualWeights {
    DoubleVec total, inverse;
    std::uint32_t limit;  // of Spread: most - least
};
template <class Out>
TALLYSTICK_HD EqualWeights equal_weights(std::size_t n, const MeanScale& scale) {
    constexpr std::uint32_t kDigits = __is_same(Out, float) ? 24 : 8;
    const auto bits = static_cast<std::uint32_t>(64 - __builtin_clzll(n));
    std::uint32_t limit = (53 - kDigits - bits - 1) << 24;           // - 1: bits are no logarithm, but nearly
    if constexpr (!kSpread<Out, false>) limit = n > 8192 ? 0 : ~0u;  // multiples of 2^-24 below 2^16
    return {splat(scale.total), splat(scale.inverse), limit};
}
TALLYSTICK_HD DoubleVec ratio(DoubleVec sum, const EqualWeights& e) {
    const DoubleVec q = sum * e.inverse;
    return fused(fused(-q, e.total, sum), e.inverse, q);  // Markstein: 2e-16 of an ulp from s / n, rounded
}
// The means to out; a lane is not 0 where the sum may be inexact, or the format's denormals are reached.
template <class Out>
TALLYSTICK_HD WordVec divide_exact(DoubleVec first, DoubleVec second, const Spread& spread,
                                   const EqualWeights& e, char* out) {
    const DoubleVec p = ratio(first, e), q = ratio(second, e);
    auto wide = spread.most - spread.least >= e.limit;
    if constexpr (__is_same(Out, float)) {
        store(out, join(to_float(p), to_float(q)) + 0.0f);
    } else {
        const FloatVec near = join(to_float(to_odd(p)), to_float(to_odd(q)));
        store(out, narrow_short<Out>(near));
        const WordVec size = reinterpret_cast<WordVec>(magnitude(near));
        if constexpr (__is_same(Out, Brain)) wide |= size - 1u < 0x007fffffu;
    }
    return reinterpret_cast<WordVec>(wide);
}

// A register's worth of columns at rows[i] + at, whatever their terms: settled, or put into pending.
template <class In, class Out, bool kWeighted>
__attribute__((noinline)) void settle_any(const char* const* rows, std::size_t n, std::size_t at,
                                          const MeanArguments& a, char* out, Pending<float>& pending) {
    DoubleVec first = {}, second = {};
    Spread spread;
    for (std::size_t i = 0; i < n; ++i) {
        const FloatVec x = Load<In>::from(rows[i] + at);
        const DoubleVec w = splat(kWeighted ? a.weights[i] : 1.0);
        first = fused(w, to_double(first_half(x)), first);
        second = fused(w, to_double(second_half(x)), second);
        spread.see(x);
    }
    std::uint64_t open = certify<Out>(first, second, spread.largest(), a.scale, out);
    alignas(64) double sums[kFloats];
    alignas(64) float largest[kFloats];
    store(sums, first);
    store(sums + kDoubles, second);
    store(largest, spread.largest());
    for (; open; open &= open - 1) {
        const auto j = static_cast<std::size_t>(__builtin_ctzll(open));
        postpone<In, Out>(rows, n, at + j * sizeof(In), out + j * sizeof(Out), sums[j],
                          static_cast<double>(largest[j]), a, pending);
    }
}

// Means of few rows of floats, or of rows in L1, with all that belongs to some columns in registers.
template <class In, class Out, bool kWeighted>
TALLYSTICK_HD bool mean_in_registers(const char* const* rows, std::size_t n, std::size_t at,
                                     std::size_t columns, const MeanArguments& a, char* out,
                                     Pending<float>& pending) {
    constexpr std::size_t kMost = kBytes == 64 ? 4 : 2;  // as many vectors as there are registers for
    FiniteCheck<double> check;
    const EqualWeights equal = equal_weights<Out>(n, a.scale);
    WordVec open = {};
    for (std::size_t c = 0; c < columns;) {
        const auto run = [&]<std::size_t kVectors>() {
            DoubleVec s[2 * kVectors] = {};
            Spread spread[kVectors];
            for (std::size_t i = 0; i < n; ++i) {
                const char* p = rows[i] + at + c * sizeof(In);
                DoubleVec w;
                if constexpr (kWeighted) w = splat(a.weights[i]);
#pragma GCC unroll 4
                for (std::size_t k = 0; k < kVectors; ++k, p += kFloats * sizeof(In)) {
                    if constexpr (kSpread<Out, kWeighted>) spread[k].see(Load<In>::from(p));
                    const DoubleVec u = load_widened<In>(p), v = load_widened<In>(p + kDoubles * sizeof(In));
                    if constexpr (kWeighted) {
                        s[2 * k] = fused(w, u, s[2 * k]);
                        s[2 * k + 1] = fused(w, v, s[2 * k + 1]);
                    } else {
                        s[2 * k] += u;
                        s[2 * k + 1] += v;
                    }
                }
            }
#pragma GCC unroll 4
            for (std::size_t k = 0; k < kVectors; ++k) {
                char* const to = out + (c + k * kFloats) * sizeof(Out);
                check.see(s[2 * k]);
                check.see(s[2 * k + 1]);
                if constexpr (kWeighted) {
                    const std::uint64_t bits =
                        certify<Out>(s[2 * k], s[2 * k + 1], spread[k].largest(), a.scale, to);
                    open[0] |= bits != 0;
                } else {
                    open |= divide_exact<Out>(s[2 * k], s[2 * k + 1], spread[k], equal, to);
                }
            }
            c += kVectors * kFloats;
        };
        if (columns - c >= kMost * kFloats) {
            run.template operator()<kMost>();
        } else {
            run.template operator()<1>();
        }
    }
    if (any(open)) {  // a call in the loop would spill registers
        for (std::size_t c = 0; c < columns; c += kFloats)
            settle_any<In, Out, kWeighted>(rows, n, at + c * sizeof(In), a, out + c * sizeof(Out), pending);
    }
    return check.finite();
}

// The mean of kColumns columns from byte `at` on.
template <class In, class Out, bool kWeighted, std::size_t kColumns, class F>
TALLYSTICK_HD bool mean_stretch(const char* const* rows, std::size_t n, std::size_t at,
                                const MeanArguments& a, char* out, Pending<F>& pending) {
    if constexpr (kColumns <= kTile && !__is_same(Out, double)) {
        return mean_in_registers<In, Out, kWeighted>(rows, n, at, kColumns, a, out, pending);
    } else {
        Sums<F, kColumns> sums;
        const double* w = a.weights;
        std::size_t i = 0;
        FiniteCheck<double> check;
        if constexpr (!__is_same(Out, double)) {  // n > 8
            add_rows<In, kWeighted, true, 8>(rows, at, w, sums);
            for (i = 8, w += kWeighted ? 8 : 0; i + 8 <= n; i += 8, w += kWeighted ? 8 : 0)
                add_rows<In, kWeighted, false, 8>(rows + i, at, w, sums);
            for (; i + 2 <= n; i += 2, w += kWeighted ? 2 : 0)
                add_rows<In, kWeighted, false, 2>(rows + i, at, w, sums);
            if (i < n) add_rows<In, kWeighted, false, 1>(rows + i, at, w, sums);
            const EqualWeights equal = equal_weights<Out>(n, a.scale);
            for (std::size_t j = 0; j < kColumns; j += kFloats) {
                const DoubleVec first = load<DoubleVec>(sums.high + j);
                const DoubleVec second = load<DoubleVec>(sums.high + j + kDoubles);
                Spread spread;
                if constexpr (kSpread<Out, kWeighted>) spread.most = load<WordVec>(sums.most + j);
                char* const to = out + j * sizeof(Out);
                check.see(first);
                check.see(second);
                bool open = false;
                if constexpr (kWeighted) {
                    open = certify<Out>(first, second, spread.largest(), a.scale, to) != 0;
                } else {
                    if constexpr (kSpread<Out, kWeighted>) spread.least = load<WordVec>(sums.least + j);
                    open = any(divide_exact<Out>(first, second, spread, equal, to));
                }
                if (open) settle_any<In, Out, kWeighted>(rows, n, at + j * sizeof(In), a, to, pending);
            }
        } else {  // sums of float64 may also overflow: go on if not finite
            __builtin_memset(&sums, 0, sizeof sums);
            for (; i + 4 <= n; i += 4, w += kWeighted ? 4 : 0)
                add_rows<In, kWeighted, 4>(rows + i, at, w, sums);
            for (; i < n; ++i, w += kWeighted) add_rows<In, kWeighted, 1>(rows + i, at, w, sums);
            double results[kColumns];
            bool certain[kColumns];
            for (std::size_t j = 0; j < kColumns; j += kDoubles) check.see(load<DoubleVec>(sums.high + j));
            for (std::size_t j = 0; j < kColumns; ++j)
                certain[j] = settle(sums.high[j], sums.low[j], sums.largest[j], a.scale, results[j]);
            __builtin_memcpy(out, results, sizeof results);
            for (std::size_t j = 0; j < kColumns; ++j)
                if (!certain[j])
                    postpone<In, Out>(rows, n, at + j * sizeof(In), out + j * sizeof(Out), sums.high[j],
                                      sums.largest[j], a, pending);
        }
        return check.finite();
    }
}

template <class T, bool kWeighted, class F>
TALLYSTICK_HD bool mean_any(const char* const* rows, std::size_t n, std::size_t columns,
                            const MeanArguments& a, char* out, Pending<F>& pending) {
    constexpr std::size_t kStretch = kStretchBytes / sizeof(F);  // 12 KiB of sums
    bool finite = true;
    std::size_t c = 0;
    for (; n > kFewRows && c + kStretch <= columns; c += kStretch)
        finite = mean_stretch<T, T, kWeighted, kStretch>(rows, n, c * sizeof(T), a, out + c * sizeof(T),
                                                         pending) &&
                 finite;
    for (; c < columns; c += kTile) {
        Ahead::share<T>(rows, n, c, kTile).fetch_all();
        finite =
            mean_stretch<T, T, kWeighted, kTile>(rows, n, c * sizeof(T), a, out + c * sizeof(T), pending) &&
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
            mean_stretch<T, T, false, 64>(kept, count, 0, a, o, pending);
        } else if (plan.width == 32) {
            mean_stretch<T, T, false, 32>(kept, count, 0, a, o, pending);
        } else {
            mean_stretch<T, T, false, 16>(kept, count, 0, a, o, pending);
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
        mean_stretch<F, T, false, kWidth>(rows + f, n - 2 * f, 0, trimmed, reinterpret_cast<char*>(middle),
                                          pending);
        refine<T>(pending, n - 2 * f, trimmed);
    } else {
        const F* low = tile + (n - 1) / 2 * stride;
        const F* high = tile + n / 2 * stride;
        for (std::size_t j = 0; j < kWidth; ++j) middle[j] = middle_of<T>(low[j], high[j]);
    }
    for (std::size_t j = 0; j < kWidth; ++j) from[j] = widen(middle[j]);
    keep_nearest(tile, stride, n, f, from, kWidth);
    mean_stretch<F, T, false, kWidth>(rows, n - f, 0, a, out, pending);
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
