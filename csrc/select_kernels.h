// Selection of ranks, column by column, of rows that stand apart. Included once per CPU level, in its region,
// after lanes.h and ahead.h.
//
// Floats are compared as integers of the same order: every unit compares those, at twice the rate. Rows are
// sorted sixteen at a time in registers; more of them are merged in an L1 tile, by bitonic networks that keep
// up to sixteen wires in registers, since there a store costs more than a comparator.
// Sources: Batcher, AFIPS 1968 (both networks).
namespace LEVEL {

typedef std::int32_t IntVec __attribute__((vector_size(LEVEL_BYTES)));
typedef std::int16_t NarrowVec __attribute__((vector_size(LEVEL_BYTES)));

#if LEVEL_BYTES == 64
TALLYSTICK_HD IntVec cast(__m512i v) { return reinterpret_cast<IntVec>(v); }
TALLYSTICK_HD __m512i cast(IntVec v) { return reinterpret_cast<__m512i>(v); }
TALLYSTICK_HD IntVec smaller(IntVec a, IntVec b) { return cast(_mm512_min_epi32(cast(a), cast(b))); }
TALLYSTICK_HD IntVec larger(IntVec a, IntVec b) { return cast(_mm512_max_epi32(cast(a), cast(b))); }
TALLYSTICK_HD NarrowVec smaller(NarrowVec a, NarrowVec b) {
    return reinterpret_cast<NarrowVec>(
        _mm512_min_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
TALLYSTICK_HD NarrowVec larger(NarrowVec a, NarrowVec b) {
    return reinterpret_cast<NarrowVec>(
        _mm512_max_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
#else
TALLYSTICK_HD IntVec smaller(IntVec a, IntVec b) { return a < b ? a : b; }
TALLYSTICK_HD IntVec larger(IntVec a, IntVec b) { return a < b ? b : a; }
TALLYSTICK_HD NarrowVec smaller(NarrowVec a, NarrowVec b) { return a < b ? a : b; }
TALLYSTICK_HD NarrowVec larger(NarrowVec a, NarrowVec b) { return a < b ? b : a; }
#endif

// Bits of floats to integers of the same order (-0 below +0), and back.
TALLYSTICK_HD IntVec flip(IntVec x) { return x ^ ((x >> 31) & 0x7fffffff); }
TALLYSTICK_HD NarrowVec flip(NarrowVec x) { return x ^ ((x >> 15) & (NarrowVec{} + std::int16_t{0x7fff})); }
TALLYSTICK_HD DoubleVec flip(DoubleVec x) { return x; }

template <class KeyType, class VecType, KeyType kInf>
struct IntegerOrder {
    typedef KeyType Key;
    typedef VecType Vec;
    static constexpr std::size_t kCount = kBytes / sizeof(Key);
    static TALLYSTICK_HD Vec most() { return Vec{} + std::numeric_limits<Key>::max(); }

    // Whether all rows seen are finite: by the extremes of their keys.
    struct Watch {
        Vec low = {}, high = {};
        TALLYSTICK_HD void see_row(Vec v) {
            low = smaller(low, v);
            high = larger(high, v);
        }
        TALLYSTICK_HD void see_ends(Vec first, Vec last) {
            low = smaller(low, first);
            high = larger(high, last);
        }
        TALLYSTICK_HD bool finite() const {
            bool all = true;
            for (std::size_t j = 0; j < kCount; ++j) all = all && low[j] > -kInf - 1 && high[j] < kInf;
            return all;
        }
    };
};
template <class T>
struct Order;
template <>
struct Order<float> : IntegerOrder<std::int32_t, IntVec, 0x7f800000> {};
template <>
struct Order<Half> : IntegerOrder<std::int16_t, NarrowVec, 0x7c00> {};
template <>
struct Order<Brain> : IntegerOrder<std::int16_t, NarrowVec, 0x7f80> {};
template <>
struct Order<double> {
    typedef double Key;
    typedef DoubleVec Vec;
    static constexpr std::size_t kCount = kDoubles;
    static TALLYSTICK_HD Vec most() { return splat(std::numeric_limits<double>::infinity()); }

    // The sum of what was read is finite only if all of it is. Huge values give a false alarm, which costs
    // the caller a look at the rows.
    struct Watch {
        Vec sum = {};
        TALLYSTICK_HD void see_row(Vec v) { sum += v; }
        TALLYSTICK_HD void see_ends(Vec, Vec) {}
        TALLYSTICK_HD bool finite() const {
            const Vec none = sum - sum;
            bool all = true;
            for (std::size_t j = 0; j < kCount; ++j) all = all && none[j] == 0;
            return all;
        }
    };
};
template <class T>
using KeyOf = typename Order<T>::Key;
template <class T>
using VecOf = typename Order<T>::Vec;
template <class T>
using WatchOf = typename Order<T>::Watch;

// Of tile rows: not a power of two, so that they fall into different cache sets.
template <class T>
constexpr std::size_t kStride = kTile + 64 / sizeof(T);

// ---- Up to kBlock rows, in registers. ----

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

template <class T, std::size_t N>
TALLYSTICK_HD void load_rows(const char* const* rows, std::size_t at, VecOf<T> (&v)[N]) {
#pragma GCC unroll 32
    for (std::size_t i = 0; i < N; ++i) v[i] = flip(load<VecOf<T>>(rows[i] + at));
}
template <class T, std::size_t N>
TALLYSTICK_HD void sort(VecOf<T> (&v)[N], WatchOf<T>& watch) {
    if constexpr (__is_same(T, double))
        for (std::size_t i = 0; i < N; ++i) watch.see_row(v[i]);
    apply<Selection<N, 0, N, true>, 0>(v);
    watch.see_ends(v[0], v[N - 1]);
}

// The middle two ranks, or the middle one, onto v of that number.
template <class T, std::size_t N>
TALLYSTICK_HD void select_middle(VecOf<T> (&v)[N], WatchOf<T>& watch) {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < N; ++i) {
        if constexpr (__is_same(T, double)) {
            watch.see_row(v[i]);
        } else if (i % 2 == 1) {  // the network's first comparators, so these cost nothing
            watch.see_ends(smaller(v[i - 1], v[i]), larger(v[i - 1], v[i]));
        } else if (i == N - 1) {
            watch.see_row(v[i]);
        }
    }
    apply<Selection<N, (N - 1) / 2, N / 2 + 1, true>, 0>(v);
}

// Keys of rows 0..N-1, sorted upwards into tile rows 0..N-1.
template <class T, std::size_t N>
void sort_rows(const char* const* rows, std::size_t at, const SelectPlan& plan, KeyOf<T>* tile,
               WatchOf<T>& watch) {
    WatchOf<T> seen = watch;
    for (std::size_t c = 0; c < plan.width; c += Order<T>::kCount) {
        VecOf<T> v[N];
        load_rows<T>(rows, at + c * sizeof(T), v);
        sort<T>(v, seen);
#pragma GCC unroll 32
        for (std::size_t i = 0; i < N; ++i) store(tile + i * kStride<T> + c, v[i]);
    }
    watch = seen;
}

// All that is wanted of N rows: values of ranks plan.low..plan.high on tile rows of that number.
template <class T, std::size_t N>
void select_few(const char* const* rows, std::size_t at, const SelectPlan& plan, KeyOf<T>* tile,
                WatchOf<T>& watch) {
    WatchOf<T> seen = watch;
    const std::size_t low = plan.low, high = plan.high;
    for (std::size_t c = 0; c < plan.width; c += Order<T>::kCount) {
        VecOf<T> v[N];
        load_rows<T>(rows, at + c * sizeof(T), v);
        sort<T>(v, seen);
#pragma GCC unroll 32
        for (std::size_t i = 0; i < N; ++i)
            if (low <= i && i <= high) store(tile + i * kStride<T> + c, flip(v[i]));
    }
    watch = seen;
}
// The same where that is the middle one or two.
template <class T, std::size_t N>
void select_middle(const char* const* rows, std::size_t at, const SelectPlan& plan, KeyOf<T>* tile,
                   WatchOf<T>& watch) {
    WatchOf<T> seen = watch;
    constexpr std::size_t kLow = (N - 1) / 2, kHigh = N / 2;
    for (std::size_t c = 0; c < plan.width; c += Order<T>::kCount) {
        VecOf<T> v[N];
        load_rows<T>(rows, at + c * sizeof(T), v);
        select_middle<T>(v, seen);
        store(tile + kLow * kStride<T> + c, flip(v[kLow]));
        if constexpr (kLow < kHigh) store(tile + kHigh * kStride<T> + c, flip(v[kHigh]));
    }
    watch = seen;
}

template <class T>
using Few = void (*)(const char* const*, std::size_t, const SelectPlan&, KeyOf<T>*, WatchOf<T>&);
#define TALLYSTICK_UP_TO_16(name)                                                        \
    {&name<T, 1>,  &name<T, 2>,  &name<T, 3>,  &name<T, 4>,  &name<T, 5>,  &name<T, 6>,  \
     &name<T, 7>,  &name<T, 8>,  &name<T, 9>,  &name<T, 10>, &name<T, 11>, &name<T, 12>, \
     &name<T, 13>, &name<T, 14>, &name<T, 15>, &name<T, 16>}
template <class T>
constexpr Few<T> kSortRows[kBlock] = TALLYSTICK_UP_TO_16(sort_rows);
template <class T>
constexpr Few<T> kSelectFew[kBlock] = TALLYSTICK_UP_TO_16(select_few);
template <class T>
constexpr Few<T> kSelectMiddle[kBlock] = TALLYSTICK_UP_TO_16(select_middle);
#undef TALLYSTICK_UP_TO_16

// ---- More rows: merges of sorted blocks, wires being tile rows. ----

// Wires `distance` apart, ..., 1 apart, of kWires; the first step of a merge compares mirrored wires instead.
template <std::size_t kDistance, class Vec, std::size_t kWires>
TALLYSTICK_HD void half_clean(Vec (&v)[kWires]) {
    if constexpr (kDistance > 0) {
#pragma GCC unroll 32
        for (std::size_t i = 0; i < kWires; ++i)
            if ((i & kDistance) == 0) {
                const Vec a = v[i], b = v[i + kDistance];
                v[i] = smaller(a, b);
                v[i + kDistance] = larger(a, b);
            }
        half_clean<kDistance / 2>(v);
    }
}
template <bool kMirrored, class Vec, std::size_t kWires>
TALLYSTICK_HD void clean(Vec (&v)[kWires]) {
    if constexpr (kMirrored) {
#pragma GCC unroll 8
        for (std::size_t i = 0; i < kWires / 2; ++i) {
            const Vec a = v[i], b = v[kWires - 1 - i];
            v[i] = smaller(a, b);
            v[kWires - 1 - i] = larger(a, b);
        }
        half_clean<kWires / 4>(v);
    } else {
        half_clean<kWires / 2>(v);
    }
}

// kSpacing: step.spacing, or 0 for any.
template <class T, std::size_t kWires, bool kMirrored, std::size_t kSpacing>
void run_step(const SelectStep& step, const SelectPlan& plan, KeyOf<T>* tile) {
    typedef VecOf<T> Vec;
    const std::size_t spacing = kSpacing ? kSpacing : step.spacing;
    for (std::size_t i = 0; i < step.groups; ++i) {
        KeyOf<T>* const up = tile + (step.base + step.first + i) * kStride<T>;
        KeyOf<T>* const down = tile + (step.base + spacing - 1 - step.first - i) * kStride<T>;
        const auto wire = [&](std::size_t t) {
            return (kMirrored && t >= kWires / 2 ? down : up) + t * spacing * kStride<T>;
        };
        for (std::size_t c = 0; c < plan.width; c += Order<T>::kCount) {
            Vec v[kWires];
            if (step.whole) {
#pragma GCC unroll 16
                for (std::size_t t = 0; t < kWires; ++t) v[t] = load<Vec>(wire(t) + c);
                clean<kMirrored>(v);
#pragma GCC unroll 16
                for (std::size_t t = 0; t < kWires; ++t) store(wire(t) + c, v[t]);
            } else {
                const unsigned present = step.present, stored = step.stored, plain = step.plain;
#pragma GCC unroll 16
                for (std::size_t t = 0; t < kWires; ++t)
                    v[t] = t < present ? load<Vec>(wire(t) + c) : Order<T>::most();
                clean<kMirrored>(v);
#pragma GCC unroll 16
                for (std::size_t t = 0; t < kWires; ++t)
                    if (stored >> t & 1) store(wire(t) + c, plain >> t & 1 ? flip(v[t]) : v[t]);
            }
        }
    }
}

template <class T, bool kMirrored, std::size_t kSpacing>
TALLYSTICK_HD void run_step(const SelectStep& step, const SelectPlan& plan, KeyOf<T>* tile) {
    if (step.count == 16) {
        run_step<T, 16, kMirrored, kSpacing>(step, plan, tile);
    } else if (step.count == 8) {
        run_step<T, 8, kMirrored, kSpacing>(step, plan, tile);
    } else if (step.count == 4) {
        run_step<T, 4, kMirrored, kSpacing>(step, plan, tile);
    } else {
        run_step<T, 2, kMirrored, kSpacing>(step, plan, tile);
    }
}
template <class T>
TALLYSTICK_HD void run_step(const SelectStep& step, const SelectPlan& plan, KeyOf<T>* tile) {
    if (!step.mirrored) {
        if (step.spacing == 1) {
            run_step<T, 16, false, 1>(step, plan, tile);
        } else {
            run_step<T, false, 0>(step, plan, tile);
        }
    } else if (step.spacing == 16) {
        run_step<T, true, 16>(step, plan, tile);
    } else {
        run_step<T, 16, true, 0>(step, plan, tile);
    }
}

// Values of ranks plan.low..plan.high on tile rows of that number; those two ranks in their places, the
// others between them in any order.
template <class T>
void select(const char* const* rows, std::size_t at, const SelectPlan& plan, KeyOf<T>* tile, Ahead ahead,
            WatchOf<T>& watch) {
    const std::size_t n = plan.n;
    if (n <= kBlock) {
        ahead.fetch_all();
        (plan.wanted == Wanted::middle ? kSelectMiddle<T> : kSelectFew<T>)[n - 1](rows, at, plan, tile,
                                                                                  watch);
        return;
    }
    const std::size_t lines = ahead.lines() / (plan.size + n / kBlock) + 1;
    std::size_t i = 0;
    for (; i < plan.in_pairs; i += 2 * kBlock) {
        ahead.fetch(2 * lines);
        sort_rows<T, 2 * kBlock>(rows + i, at, plan, tile + i * kStride<T>, watch);
    }
    for (; i < n; i += kBlock) {
        const std::size_t count = n - i < kBlock ? n - i : kBlock;
        ahead.fetch(lines);
        kSortRows<T>[count - 1](rows + i, at, plan, tile + i * kStride<T>, watch);
    }
    for (const SelectStep* step = plan.steps; step < plan.steps + plan.size; ++step) {
        ahead.fetch(lines);
        run_step<T>(*step, plan, tile);
    }
    ahead.fetch(ahead.lines());
}

}  // namespace LEVEL
