// Loops of mean, median and trimmed mean. Included once per CPU level, in its region, after lanes.h.
//   rows     n addresses of the first of `columns` values; columns is a multiple of kTile
//   out      room for as many results
//   returns  false if a value was NaN or infinite: the caller finds out whose; out is unspecified there
namespace LEVEL {

constexpr std::size_t kAhead = 512;  // bytes by which rows are prefetched

// ---- Weighted mean. A block is the columns whose sums stay in registers. ----

constexpr std::size_t kBlock = 4 * kFloats;

// Float64 sums of kColumns columns; max |x| beside them.
template <class In, bool kWeighted, std::size_t kColumns>
TALLYSTICK_HD void sum_block(const char* const* rows, std::size_t n, std::size_t at, const double* weights,
                             double* sums, double* largest) {
    constexpr std::size_t kVectors = kColumns / kFloats;
    DoubleVec s[2 * kVectors] = {};
    FloatVec m[kVectors] = {};
    for (std::size_t i = 0; i < n; ++i) {
        const char* p = rows[i] + at;
        DoubleVec w;
        if constexpr (kWeighted) w = splat(weights[i]);
#pragma GCC unroll 4
        for (std::size_t k = 0; k < kVectors; ++k) {
            const FloatVec x = Load<In>::from(p + k * kFloats * sizeof(In));
            m[k] = larger(m[k], magnitude(x));
            if constexpr (kWeighted) {
                s[2 * k] = fused(w, to_double(first_half(x)), s[2 * k]);
                s[2 * k + 1] = fused(w, to_double(second_half(x)), s[2 * k + 1]);
            } else {
                s[2 * k] += to_double(first_half(x));
                s[2 * k + 1] += to_double(second_half(x));
            }
        }
        for (std::size_t b = 0; b < kColumns * sizeof(In); b += 64) __builtin_prefetch(p + b + kAhead);
    }
#pragma GCC unroll 4
    for (std::size_t k = 0; k < kVectors; ++k) {
        store(sums + 2 * k * kDoubles, s[2 * k]);
        store(sums + (2 * k + 1) * kDoubles, s[2 * k + 1]);
        store(largest + 2 * k * kDoubles, to_double(first_half(m[k])));
        store(largest + (2 * k + 1) * kDoubles, to_double(second_half(m[k])));
    }
}

// Double-double sums of float64 columns, kVectors registers of them.
template <bool kWeighted, std::size_t kVectors>
TALLYSTICK_HD void sum_doubles(const char* const* rows, std::size_t n, std::size_t at, const double* weights,
                               double* high, double* low, double* largest) {
    DoubleVec s[kVectors] = {}, c[kVectors] = {}, m[kVectors] = {};
    for (std::size_t i = 0; i < n; ++i) {
        const char* p = rows[i] + at;
        DoubleVec w;
        if constexpr (kWeighted) w = splat(weights[i]);
#pragma GCC unroll 4
        for (std::size_t k = 0; k < kVectors; ++k) {
            DoubleVec x = load<DoubleVec>(p + k * kBytes);
            m[k] = larger(m[k], magnitude(x));
            if constexpr (kWeighted) {
                const DoubleVec product = w * x;
                c[k] += fused(w, x, -product);
                x = product;
            }
            const DoubleVec sum = s[k] + x, part = sum - s[k];
            c[k] += (s[k] - (sum - part)) + (x - part);
            s[k] = sum;
        }
        for (std::size_t b = 0; b < kVectors * kBytes; b += 64) __builtin_prefetch(p + b + kAhead);
    }
#pragma GCC unroll 4
    for (std::size_t k = 0; k < kVectors; ++k) {
        store(high + k * kDoubles, s[k]);
        store(low + k * kDoubles, c[k]);
        store(largest + k * kDoubles, m[k]);
    }
}

template <class T>
TALLYSTICK_HD T read(const char* p) {
    T x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
}

// One column as exact.h wants it.
template <class In>
struct Column {
    const char* const* rows;
    std::size_t at;
    const double* weights;

    double weight(std::size_t i) const { return weights ? weights[i] : 1.0; }
    double value(std::size_t i) const { return static_cast<double>(widen(read<In>(rows[i] + at))); }
};

template <class In, class Out>
Out exact_column(const Column<In>& column, std::size_t n, const Bracket<Out>* between) {
    double largest = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const double x = magnitude(column.value(i));
        if (!(x - x == 0)) return Out{};  // reported by the caller
        largest = largest < x ? x : largest;
    }
    const std::int64_t limit = key_of(narrow<Out>(largest));
    std::int64_t low = -limit, high = limit;
    if (between) {
        const std::int64_t a = key_of(between->low), b = key_of(between->high);
        low = a < low ? low : a;
        high = b > high ? high : b;
    }
    return exact_mean<Out>(column, n, low, high);
}

// Tiers 2 and 3 for the columns of a group of eight that are marked in `open`.
template <class In, class Out>
__attribute__((noinline)) void refine(const char* const* rows, std::size_t n, std::size_t at,
                                      const MeanArguments& a, const double* largest, const bool* open,
                                      char* out, Redone& redone) {
    LongSum sums[8];
    for (std::size_t i = 0; i < n; ++i) {
        In x[8];
        __builtin_memcpy(x, rows[i] + at, sizeof x);
        if (a.weights) {
            const double w = a.weights[i];
            for (std::size_t j = 0; j < 8; ++j) add(sums[j], w, static_cast<double>(widen(x[j])));
        } else {
            for (std::size_t j = 0; j < 8; ++j) add(sums[j], static_cast<double>(widen(x[j])));
        }
    }
    for (std::size_t j = 0; j < 8; ++j) {
        if (!open[j]) continue;
        ++redone.second;
        LongSum s = sums[j];
        s.lost += largest[j] * a.scale.inexact;
        const Bracket<Out> b = bracket<Out>(divide(s, a.scale));
        const bool usable = in_range<Out>(largest[j]) && s.high - s.high == 0;
        Out result = b.low;
        if (!usable || !same(b.low, b.high)) {
            ++redone.third;
            const Column<In> column{rows, at + j * sizeof(In), a.weights};
            result = exact_column<In, Out>(column, n, usable ? &b : nullptr);
        }
        __builtin_memcpy(out + j * sizeof(Out), &result, sizeof result);
    }
}

// Column j of a block after tier 1; false: open.
template <class Out>
TALLYSTICK_HD bool settle(double high, double low, double largest, const MeanScale& scale, Out& out) {
    if constexpr (__is_same(Out, double)) {
        const LongSum s{high, low, scale.step_dd * scale.total * largest};
        const Bracket<double> b = bracket<double>(divide(s, scale));
        out = largest == 0 ? 0.0 : b.low;
        return (largest == 0) | (in_range<Out>(largest) & (b.low == b.high));
    } else {
        return certify<Out>(high, largest, scale, out) & (high - high == 0);
    }
}

template <class In, class Out, bool kWeighted, std::size_t kColumns>
TALLYSTICK_HD bool mean_block(const char* const* rows, std::size_t n, std::size_t at, const MeanArguments& a,
                              char* out, Redone& redone) {
    alignas(64) double high[kColumns], low[kColumns], largest[kColumns];
    if constexpr (__is_same(In, double)) {
        constexpr std::size_t kPart = kColumns < 4 * kDoubles ? kColumns : 4 * kDoubles;
        for (std::size_t j = 0; j < kColumns; j += kPart)
            sum_doubles<kWeighted, kPart / kDoubles>(rows, n, at + j * sizeof(double), a.weights, high + j,
                                                     low + j, largest + j);
    } else {
        sum_block<In, kWeighted, kColumns>(rows, n, at, a.weights, high, largest);
    }
    FiniteCheck<double> check;
    for (std::size_t j = 0; j < kColumns; j += kDoubles) check.see(load<DoubleVec>(high + j));
    const bool finite = check.finite();
    if (!finite && !__is_same(In, double)) return false;  // sums of float64 may also overflow: go on
    Out results[kColumns];
    alignas(8) bool open[kColumns];
    for (std::size_t j = 0; j < kColumns; ++j)
        open[j] = !settle<Out>(high[j], low[j], largest[j], a.scale, results[j]);
    __builtin_memcpy(out, results, sizeof results);
    for (std::size_t j = 0; j < kColumns; j += 8) {
        std::uint64_t any;
        __builtin_memcpy(&any, open + j, 8);
        if (any)
            refine<In, Out>(rows, n, at + j * sizeof(In), a, largest + j, open + j, out + j * sizeof(Out),
                            redone);
    }
    return finite;
}

template <class T, bool kWeighted>
TALLYSTICK_HD bool mean_any(const char* const* rows, std::size_t n, std::size_t columns,
                            const MeanArguments& a, char* out, Redone& redone) {
    bool finite = true;
    for (std::size_t c = 0; c < columns; c += kBlock)
        finite =
            mean_block<T, T, kWeighted, kBlock>(rows, n, c * sizeof(T), a, out + c * sizeof(T), redone) &&
            finite;
    return finite;
}

template <class T>
bool mean(const char* const* rows, std::size_t n, std::size_t columns, const MeanArguments& a, char* out,
          Redone& redone) {
    return a.weights ? mean_any<T, true>(rows, n, columns, a, out, redone)
                     : mean_any<T, false>(rows, n, columns, a, out, redone);
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
                             FiniteCheck<F>& check) {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < N; ++i) {
        v[i] = load<typename Lanes<F>::Vec>(rows[i] + at);
        __builtin_prefetch(rows[i] + at + kAhead);
        check.see(v[i]);
    }
}

// Rows 0..N-1 sorted upwards into tile rows 0..N-1, `width` columns each.
template <class F, std::size_t N>
void sort_rows(const char* const* rows, std::size_t at, std::size_t width, F* tile, FiniteCheck<F>& check) {
    FiniteCheck<F> seen = check;
    for (std::size_t c = 0; c < width; c += Lanes<F>::kCount) {
        typename Lanes<F>::Vec v[N];
        load_rows<F>(rows, at + c * sizeof(F), v, seen);
        apply<Selection<N, 0, N, true>, 0>(v);
#pragma GCC unroll 16
        for (std::size_t i = 0; i < N; ++i) store(tile + i * width + c, v[i]);
    }
    check = seen;
}

// The two middle ranks of N rows (the same row twice if N is odd).
template <class F, std::size_t N>
void middle_rows(const char* const* rows, std::size_t at, std::size_t width, F* tile, FiniteCheck<F>& check) {
    FiniteCheck<F> seen = check;
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
using SortRows = void (*)(const char* const*, std::size_t, std::size_t, F*, FiniteCheck<F>&);
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
void merge(const Comparator* net, std::size_t size, F* tile) {
    typedef typename Lanes<F>::Vec Vec;
    for (std::size_t k = 0; k < size; ++k) {
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
void select(const char* const* rows, std::size_t at, const SelectPlan& plan, F* tile, FiniteCheck<F>& check) {
    const std::size_t n = plan.n, width = plan.width;
    if (n <= kSorted) {
        (plan.middle_only ? kMiddleRows<F> : kSortRows<F>)[n - 1](rows, at, width, tile, check);
        return;
    }
    for (std::size_t i = 0; i < n; i += kSorted) {
        const std::size_t count = n - i < kSorted ? n - i : kSorted;
        kSortRows<F>[count - 1](rows + i, at, width, tile + i * width, check);
    }
    if (width == 64) {
        merge<F, 64>(plan.net, plan.size, tile);
    } else if (width == 32) {
        merge<F, 32>(plan.net, plan.size, tile);
    } else {
        merge<F, 16>(plan.net, plan.size, tile);
    }
}

template <class T>
struct Selected {  // what values of T are compared as
    typedef float F;
};
template <>
struct Selected<double> {
    typedef double F;
};

// 16-bit rows, widened into work.wide.
template <class T>
TALLYSTICK_HD void widen_rows(const char* const* rows, std::size_t at, const SelectPlan& plan,
                              const SelectWork& work) {
    float* to = static_cast<float*>(work.wide);
    for (std::size_t i = 0; i < plan.n; ++i, to += plan.width) {
        const char* p = rows[i] + at;
        for (std::size_t c = 0; c < plan.width; c += kFloats) store(to + c, Load<T>::from(p + c * sizeof(T)));
        __builtin_prefetch(p + kAhead);
        work.wide_rows[i] = reinterpret_cast<const char*>(to);
    }
}

template <class T, class F>
TALLYSTICK_HD void select_tile(const char* const* rows, std::size_t c, const SelectPlan& plan,
                               const SelectWork& work, FiniteCheck<F>& check) {
    F* tile = static_cast<F*>(work.tile);
    if constexpr (sizeof(T) == 2) {
        widen_rows<T>(rows, c * sizeof(T), plan, work);
        select<F>(work.wide_rows, 0, plan, tile, check);
    } else {
        select<F>(rows, c * sizeof(T), plan, tile, check);
    }
}

template <class T>
bool median(const char* const* rows, std::size_t columns, const SelectPlan& plan, const SelectWork& work,
            char* out) {
    typedef typename Selected<T>::F F;
    FiniteCheck<F> check;
    const F* tile = static_cast<const F*>(work.tile);
    for (std::size_t c = 0; c < columns; c += plan.width) {
        select_tile<T, F>(rows, c, plan, work, check);
        const F* low = tile + plan.low * plan.width;
        const F* high = tile + plan.high * plan.width;
        T results[kTile];
        if (low == high) {
            for (std::size_t j = 0; j < plan.width; ++j) results[j] = narrow<T>(low[j]);
        } else {
            for (std::size_t j = 0; j < plan.width; ++j) results[j] = middle_of<T>(low[j], high[j]);
        }
        __builtin_memcpy(out + c * sizeof(T), results, plan.width * sizeof(T));
    }
    return check.finite();
}

template <class In, class Out, std::size_t kWidth>
TALLYSTICK_HD void mean_tile(const char* const* rows, std::size_t n, const MeanArguments& a, char* out,
                             Redone& redone) {
    constexpr std::size_t kColumns = kWidth < kBlock ? kWidth : kBlock;
    for (std::size_t j = 0; j < kWidth; j += kColumns)
        mean_block<In, Out, false, kColumns>(rows, n, j * sizeof(In), a, out + j * sizeof(Out), redone);
}

template <class T>
bool trimmed_mean(const char* const* rows, std::size_t columns, const SelectPlan& plan,
                  const SelectWork& work, const MeanArguments& a, char* out, Redone& redone) {
    typedef typename Selected<T>::F F;
    FiniteCheck<F> check;
    for (std::size_t c = 0; c < columns; c += plan.width) {
        select_tile<T, F>(rows, c, plan, work, check);
        char* o = out + c * sizeof(T);
        const char* const* kept = work.tile_rows + plan.low;
        const std::size_t count = plan.high - plan.low + 1;
        if (plan.width == 64) {
            mean_tile<F, T, 64>(kept, count, a, o, redone);
        } else if (plan.width == 32) {
            mean_tile<F, T, 32>(kept, count, a, o, redone);
        } else {
            mean_tile<F, T, 16>(kept, count, a, o, redone);
        }
    }
    return check.finite();
}

// ---- Who was it, and the yardstick. ----

template <class T>
bool all_finite(const char* row, std::size_t columns) {
    FiniteCheck<typename Selected<T>::F> check;
    constexpr std::size_t kCount = Lanes<typename Selected<T>::F>::kCount;
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
