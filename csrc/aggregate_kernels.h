// Loops of mean, median and trimmed mean. Included once per CPU level, in its region, after lanes.h.
//   rows     n addresses of the first of `columns` values; columns is a multiple of kTile
//   out      room for as many results
//   returns  false if a value was NaN or infinite: the caller finds out whose; out is unspecified there
namespace LEVEL {

// Rows are prefetched into L2 a stretch of bytes ahead, and there row by row: memory then sees long
// sequential reads. A kernel that works on columns [c, c + width) fetches its share of the rows, a few lines
// now and then.
constexpr std::size_t kAhead = 2048;
struct Ahead {
    const char* const* row;
    const char* const* last;
    std::size_t offset, stretch_end;

    template <class T>
    static TALLYSTICK_HD Ahead share(const char* const* rows, std::size_t n, std::size_t c,
                                     std::size_t width) {
        const std::size_t at = c * sizeof(T), start = at / kAhead * kAhead;
        return {rows + n * (at - start) / kAhead, rows + n * (at - start + width * sizeof(T)) / kAhead,
                start + kAhead, start + 2 * kAhead};
    }
    TALLYSTICK_HD void fetch_all() const {
        for (const char* const* r = row; r < last; ++r)
            for (std::size_t b = 0; b < kAhead; b += 64) __builtin_prefetch(*r + offset + b, 0, 2);
    }
    TALLYSTICK_HD std::size_t lines() const { return static_cast<std::size_t>(last - row) * (kAhead / 64); }
    TALLYSTICK_HD void fetch(std::size_t lines) {
        for (; lines > 0 && row < last; --lines) {
            __builtin_prefetch(*row + offset, 0, 2);
            offset += 64;
            if (offset == stretch_end) {
                offset -= kAhead;
                ++row;
            }
        }
    }
};

constexpr std::size_t kFewRows = 16;
constexpr std::size_t kStretchBytes = 4096;  // of float rows of a stretch of sums

// ---- Weighted mean ----

// Sums of a stretch of columns, and max |x|: float64 sums, or double-double ones of float64 data.
template <class F, std::size_t kColumns>
struct Sums {
    alignas(64) double high[kColumns];
    alignas(64) F largest[kColumns];
    alignas(64) F smallest[kColumns];  // min |x|, where known, else 0
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

// Few rows, or rows in L1: sums of four vectors of columns at a time, in registers.
template <class In, bool kWeighted, std::size_t kColumns>
TALLYSTICK_HD void sum_rows(const char* const* rows, std::size_t n, std::size_t at, const double* weights,
                            Sums<float, kColumns>& sums) {
    constexpr std::size_t kMost = kBytes == 64 ? 4 : 2;  // as many as there are registers for
    constexpr std::size_t kVectors = kColumns < kMost * kFloats ? kColumns / kFloats : kMost;
    for (std::size_t c = 0; c < kColumns; c += kVectors * kFloats) {
        DoubleVec s[2 * kVectors] = {};
        FloatVec m[kVectors] = {}, least[kVectors] = {};
        for (std::size_t k = 0; k < kVectors && !kWeighted; ++k)
            least[k] = magnitude(Load<In>::from(rows[0] + at + (c + k * kFloats) * sizeof(In)));
        for (std::size_t i = 0; i < n; ++i) {
            const char* p = rows[i] + at + c * sizeof(In);
            DoubleVec w;
            if constexpr (kWeighted) w = splat(weights[i]);
#pragma GCC unroll 4
            for (std::size_t k = 0; k < kVectors; ++k) {
                const FloatVec x = Load<In>::from(p + k * kFloats * sizeof(In));
                m[k] = larger_magnitude(m[k], x);
                if constexpr (kWeighted) {
                    s[2 * k] = fused(w, to_double(first_half(x)), s[2 * k]);
                    s[2 * k + 1] = fused(w, to_double(second_half(x)), s[2 * k + 1]);
                } else {
                    least[k] = smaller_magnitude(least[k], x);
                    s[2 * k] += to_double(first_half(x));
                    s[2 * k + 1] += to_double(second_half(x));
                }
            }
        }
#pragma GCC unroll 4
        for (std::size_t k = 0; k < kVectors; ++k) {
            store(sums.high + c + 2 * k * kDoubles, s[2 * k]);
            store(sums.high + c + (2 * k + 1) * kDoubles, s[2 * k + 1]);
            store(sums.largest + c + k * kFloats, m[k]);
            store(sums.smallest + c + k * kFloats, least[k]);
        }
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

// Column j after tier 1; false: open.
template <class Out, class F, std::size_t kColumns>
TALLYSTICK_HD bool settle(const Sums<F, kColumns>& sums, std::size_t j, const MeanScale& scale, Out& out) {
    const double largest = sums.largest[j];
    if constexpr (__is_same(Out, double)) {
        const LongSum s{sums.high[j], sums.low[j], scale.step_dd * scale.total * largest};
        const Bracket<double> b = bracket<double>(divide(s, scale));
        out = largest == 0 ? 0.0 : b.low;
        return (largest == 0) | (in_range<double>(largest) & (b.low == b.high));
    } else {
        return certify<Out>(sums.high[j], largest, scale, out);
    }
}

// The mean of kColumns columns from byte `at` on.
template <class In, class Out, bool kWeighted, std::size_t kColumns, class F>
TALLYSTICK_HD bool mean_stretch(const char* const* rows, std::size_t n, std::size_t at,
                                const MeanArguments& a, char* out, Pending<F>& pending) {
    Sums<F, kColumns> sums;
    if constexpr (kColumns <= kTile && !__is_same(In, double)) {
        sum_rows<In, kWeighted>(rows, n, at, a.weights, sums);
    } else {
        __builtin_memset(&sums, 0, sizeof sums);
        const double* w = a.weights;
        std::size_t i = 0;
        for (; i + 4 <= n; i += 4, w += kWeighted ? 4 : 0) add_rows<In, kWeighted, 4>(rows + i, at, w, sums);
        for (; i < n; ++i, w += kWeighted) add_rows<In, kWeighted, 1>(rows + i, at, w, sums);
    }
    FiniteCheck<double> check;
    for (std::size_t j = 0; j < kColumns; j += kDoubles) check.see(load<DoubleVec>(sums.high + j));
    const bool finite = check.finite();
    if (!finite && !__is_same(In, double)) return false;  // sums of float64 may also overflow: go on
    Out results[kColumns];
    alignas(8) bool open[kColumns];
    for (std::size_t j = 0; j < kColumns; ++j) open[j] = !settle<Out>(sums, j, a.scale, results[j]);
    __builtin_memcpy(out, results, sizeof results);
    for (std::size_t j = 0; j < kColumns; j += 8) {
        std::uint64_t marks;  // bytes, little-endian
        __builtin_memcpy(&marks, open + j, 8);
        for (; marks; marks &= marks - 1) {
            const std::size_t k = j + static_cast<std::size_t>(__builtin_ctzll(marks)) / 8;
            char* const to = out + k * sizeof(Out);
            const double sum = sums.high[k], largest = sums.largest[k];
            if constexpr (!kWeighted && !__is_same(In, double)) {
                if (sums.smallest[k] > 0 && sums.smallest[k] >= largest * exact_from(n)) {
                    const Out result = narrow_ratio<Out>(sum, a.scale.total);
                    __builtin_memcpy(to, &result, sizeof result);
                    continue;
                }
            }
            postpone<In, Out>(rows, n, at + k * sizeof(In), to, sum, largest, a, pending);
        }
    }
    return finite;
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

// ---- Selection. Up to kSorted rows are sorted in registers; more, block by block, then merged in an L1
// tile. ----

constexpr std::size_t kSorted = 16;

template <class Network, std::size_t kAt, class Vec, std::size_t N>
TALLYSTICK_HD void apply(Vec (&v)[N]) {
    if constexpr (kAt < Network::kTable.size) {
        constexpr Comparator c = Network::kTable.net[kAt];
        const Vec a = v[c.a], b = v[c.b];
        if constexpr (c.keep_low) v[c.a] = smaller(a, b);
        if constexpr (c.keep_high) v[c.b] = larger(a, b);
        apply<Network, kAt + 1>(v);
    }
}

template <class F, std::size_t N>
TALLYSTICK_HD void load_rows(const char* const* rows, std::size_t at, typename Lanes<F>::Vec (&v)[N],
                             Alarm<F>& check) {
#pragma GCC unroll 32
    for (std::size_t i = 0; i < N; ++i) {
        v[i] = load<typename Lanes<F>::Vec>(rows[i] + at);
        check.see(v[i], i);
    }
}

// Rows 0..N-1 sorted upwards into tile rows 0..N-1, `width` columns each.
template <class F, std::size_t N>
void sort_rows(const char* const* rows, std::size_t at, std::size_t width, F* tile, Alarm<F>& check) {
    Alarm<F> seen = check;
    for (std::size_t c = 0; c < width; c += Lanes<F>::kCount) {
        typename Lanes<F>::Vec v[N];
        load_rows<F>(rows, at + c * sizeof(F), v, seen);
        apply<Selection<N, 0, N, true>, 0>(v);
#pragma GCC unroll 32
        for (std::size_t i = 0; i < N; ++i) store(tile + i * width + c, v[i]);
    }
    check = seen;
}

// The two middle ranks of N rows (the same row twice if N is odd).
template <class F, std::size_t N>
void middle_rows(const char* const* rows, std::size_t at, std::size_t width, F* tile, Alarm<F>& check) {
    Alarm<F> seen = check;
    constexpr std::size_t kLow = (N - 1) / 2, kHigh = N / 2;
    for (std::size_t c = 0; c < width; c += Lanes<F>::kCount) {
        typename Lanes<F>::Vec v[N];
        load_rows<F>(rows, at + c * sizeof(F), v, seen);
        apply<Selection<N, kLow, kHigh + 1, true>, 0>(v);
        store(tile + kLow * width + c, v[kLow]);
        store(tile + kHigh * width + c, v[kHigh]);
    }
    check = seen;
}

template <class F>
using SortRows = void (*)(const char* const*, std::size_t, std::size_t, F*, Alarm<F>&);
#define TALLYSTICK_UP_TO_16(name)                                                        \
    {&name<F, 1>,  &name<F, 2>,  &name<F, 3>,  &name<F, 4>,  &name<F, 5>,  &name<F, 6>,  \
     &name<F, 7>,  &name<F, 8>,  &name<F, 9>,  &name<F, 10>, &name<F, 11>, &name<F, 12>, \
     &name<F, 13>, &name<F, 14>, &name<F, 15>, &name<F, 16>}
template <class F>
constexpr SortRows<F> kSortRows[kSorted] = TALLYSTICK_UP_TO_16(sort_rows);
template <class F>
constexpr SortRows<F> kMiddleRows[kSorted] = TALLYSTICK_UP_TO_16(middle_rows);
#undef TALLYSTICK_UP_TO_16

// The comparators of the merging phases, one after another, each over all columns of the tile.
template <class F, std::size_t kWidth>
void merge(const Comparator* net, std::size_t size, F* tile, Ahead ahead) {
    typedef typename Lanes<F>::Vec Vec;
    if (size == 0) return ahead.fetch_all();
    const std::size_t lines = ahead.lines() / size + 1;
    for (std::size_t k = 0; k < size; ++k) {
        ahead.fetch(lines);
        F* const a = tile + net[k].a * kWidth;
        F* const b = tile + net[k].b * kWidth;
        const bool low = net[k].keep_low, high = net[k].keep_high;
        for (std::size_t c = 0; c < kWidth; c += Lanes<F>::kCount) {
            const Vec x = load<Vec>(a + c), y = load<Vec>(b + c);
            if (low) store(a + c, smaller(x, y));
            if (high) store(b + c, larger(x, y));
        }
    }
}

// Leaves the ranks that the plan asks for on the rows of work.tile.
template <class F>
void select(const char* const* rows, std::size_t at, const SelectPlan& plan, F* tile, Ahead ahead,
            Alarm<F>& check) {
    const std::size_t n = plan.n, width = plan.width;
    if (n <= kSorted) {
        (plan.middle_only ? kMiddleRows<F> : kSortRows<F>)[n - 1](rows, at, width, tile, check);
        return;
    }
    std::size_t i = 0;
    for (; i + 2 * kSorted <= n; i += 2 * kSorted)
        sort_rows<F, 2 * kSorted>(rows + i, at, width, tile + i * width, check);
    for (; i < n; i += kSorted) {
        const std::size_t count = n - i < kSorted ? n - i : kSorted;
        kSortRows<F>[count - 1](rows + i, at, width, tile + i * width, check);
    }
    if (width == 64) {
        merge<F, 64>(plan.net, plan.size, tile, ahead);
    } else if (width == 32) {
        merge<F, 32>(plan.net, plan.size, tile, ahead);
    } else {
        merge<F, 16>(plan.net, plan.size, tile, ahead);
    }
}

// 16-bit rows, widened into work.wide.
template <class T>
TALLYSTICK_HD void widen_rows(const char* const* rows, std::size_t at, const SelectPlan& plan,
                              const SelectWork& work) {
    float* to = static_cast<float*>(work.wide);
    for (std::size_t i = 0; i < plan.n; ++i, to += plan.width) {
        const char* p = rows[i] + at;
        for (std::size_t c = 0; c < plan.width; c += kFloats) store(to + c, Load<T>::from(p + c * sizeof(T)));
        work.wide_rows[i] = reinterpret_cast<const char*>(to);
    }
}

template <class T, class F>
TALLYSTICK_HD void select_tile(const char* const* rows, std::size_t c, const SelectPlan& plan,
                               const SelectWork& work, Alarm<F>& check) {
    F* tile = static_cast<F*>(work.tile);
    const Ahead ahead = Ahead::share<T>(rows, plan.n, c, plan.width);
    if (plan.n <= kSorted) ahead.fetch_all();
    if constexpr (sizeof(T) == 2) {
        widen_rows<T>(rows, c * sizeof(T), plan, work);
        select<F>(work.wide_rows, 0, plan, tile, ahead, check);
    } else {
        select<F>(rows, c * sizeof(T), plan, tile, ahead, check);
    }
}

template <class T>
bool median(const char* const* rows, std::size_t columns, const SelectPlan& plan, const SelectWork& work,
            char* out) {
    typedef Widened<T> F;
    Alarm<F> check;
    const F* tile = static_cast<const F*>(work.tile);
    for (std::size_t c = 0; c < columns; c += plan.width) {
        select_tile<T, F>(rows, c, plan, work, check);
        const F* low = tile + plan.low * plan.width;
        const F* high = tile + plan.high * plan.width;
        T results[kTile];
        if (low == high) {
            for (std::size_t j = 0; j < plan.width; ++j) results[j] = narrow<T>(low[j]);
        } else if constexpr (__is_same(T, float)) {
            for (std::size_t j = 0; j < plan.width; j += kFloats)
                store(results + j, middle_of_floats(load<FloatVec>(low + j), load<FloatVec>(high + j)));
        } else {
            for (std::size_t j = 0; j < plan.width; ++j) results[j] = middle_of<T>(low[j], high[j]);
        }
        __builtin_memcpy(out + c * sizeof(T), results, plan.width * sizeof(T));
    }
    return check.finite();
}

template <class T>
bool trimmed_mean(const char* const* rows, std::size_t columns, const SelectPlan& plan,
                  const SelectWork& work, const MeanArguments& a, char* out, Pending<Widened<T>>& pending) {
    typedef Widened<T> F;
    Alarm<F> check;
    const char* const* kept = work.tile_rows + plan.low;
    const std::size_t count = plan.high - plan.low + 1;
    for (std::size_t c = 0; c < columns; c += plan.width) {
        select_tile<T, F>(rows, c, plan, work, check);
        char* o = out + c * sizeof(T);
        if (plan.width == 64) {
            mean_stretch<F, T, false, 64>(kept, count, 0, a, o, pending);
        } else if (plan.width == 32) {
            mean_stretch<F, T, false, 32>(kept, count, 0, a, o, pending);
        } else {
            mean_stretch<F, T, false, 16>(kept, count, 0, a, o, pending);
        }
    }
    refine<T>(pending, count, a);
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
