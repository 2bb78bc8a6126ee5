// Loops of mixed: tiles of virtual clients. By levels.h.
#include "lanes.h"
//
#include "ahead.h"
//
#include "widen.h"

namespace LEVEL {

// Values y beyond the format, or lost by overflow, become its largest value of their sign (a NaN: positive).
template <class T>
TALLYSTICK_HD DoubleVec clamp(DoubleVec y) {
    const DoubleVec largest = splat(static_cast<double>(widen(from_key<T>(Format<T>::kLargest))));
    return larger(smaller(largest, y), -largest);
}

template <class T>
TALLYSTICK_HD void store_narrowed(char* to, DoubleVec y, bool bounded) {
    if (__is_same(T, double) || !bounded) y = clamp<T>(y);
    if constexpr (__is_same(T, double)) {
        store(to, y + 0.0);
    } else if constexpr (__is_same(T, float)) {
        store(to, __builtin_convertvector(y, HalfFloatVec) + 0.0f);
    } else {
        T narrowed[kDoubles];
        for (std::size_t j = 0; j < kDoubles; ++j) narrowed[j] = narrow<T>(y[j]);
        __builtin_memcpy(to, narrowed, sizeof narrowed);
    }
}

// The 15 sums of members of a quad of clients, in their slots of the table (slot 0 holds zeros).
template <class In>
TALLYSTICK_HD void build_quad(const char* const* rows, std::size_t count, std::size_t at, char* table,
                              FiniteCheck<double>& check) {
    DoubleVec x[4] = {};
#pragma GCC unroll 4
    for (std::size_t k = 0; k < 4; ++k)
        if (k < count) {
            x[k] = load_widened<In>(rows[k] + at);
            check.see(x[k]);
            __builtin_prefetch(rows[k] + at + 64, 0, 3);  // the next columns: by then tables fill the cache
        }
    const DoubleVec low = x[0] + x[1], high = x[2] + x[3];
    const DoubleVec sums[16] = {DoubleVec{}, x[0],        x[1],        low,         x[2],        x[0] + x[2],
                                x[1] + x[2], low + x[2],  x[3],        x[0] + x[3], x[1] + x[3], low + x[3],
                                high,        x[0] + high, x[1] + high, low + high};
    if (count <= 2) {  // stores are what bounds this function
#pragma GCC unroll 3
        for (std::size_t k = 1; k < 4; ++k) store(table + k * kSlot, sums[k]);
        return;
    }
#pragma GCC unroll 16
    for (std::size_t k = 1; k < 16; ++k) store(table + k * kSlot, sums[k]);
}

// What is common to the blocks of rows of one table.
struct TableSums {
    const MixPlan& plan;
    const MixWork& work;
    std::size_t first, quads;  // in the table
    char* tile;                // of this vector of columns
};

// Adds the quads of a table to the sums of rows r .. r + kRows - 1, by the slots that these name. Names come
// in one load as far as possible: loads are what bounds this loop.
template <class T, std::size_t kRows>
TALLYSTICK_HD void add_quads(const TableSums& t, std::size_t r, bool bounded) {
    constexpr std::size_t kNames = kRows < 4 ? kRows : 4;
    double* const kept = t.work.sums + r * kDoubles;
    DoubleVec sum[kRows] = {};
    if (t.first > 0)
#pragma GCC unroll 8
        for (std::size_t k = 0; k < kRows; ++k) sum[k] = load<DoubleVec>(kept + k * kDoubles);
    const std::uint16_t* slots = t.plan.slots + (r / 8 * t.plan.quads + t.first) * 8 + r % 8;
    const char* const table = t.work.table;
    for (std::size_t q = 0; q < t.quads; ++q, slots += 8)
#pragma GCC unroll 2
        for (std::size_t k = 0; k < kRows; k += kNames) {
            std::uint64_t names = 0;
            __builtin_memcpy(&names, slots + k, kNames * sizeof *slots);
#pragma GCC unroll 4
            for (std::size_t j = 0; j < kNames; ++j)
                sum[k + j] += load<DoubleVec>(table + (names >> 16 * j & 0xffff) * kSlotUnit);
        }
    if (t.first + t.quads < t.plan.quads) {
#pragma GCC unroll 8
        for (std::size_t k = 0; k < kRows; ++k) store(kept + k * kDoubles, sum[k]);
        return;
    }
#pragma GCC unroll 8
    for (std::size_t k = 0; k < kRows; ++k)
        store_narrowed<T>(t.tile + (r + k) * t.work.stride, splat(t.plan.scales[r + k]) * sum[k], bounded);
}

// Columns [at, at + kDoubles) of the rows in plan.tabled.
template <class T>
TALLYSTICK_HD bool mix_by_tables(const char* const* rows, std::size_t column, std::size_t in_tile,
                                 const MixPlan& plan, const MixWork& work, char* tile) {
    const std::size_t at = (column + in_tile) * sizeof(T);
    const bool bounded = plan.bounded;
    FiniteCheck<double> check;
    for (std::size_t first = 0; first < plan.quads; first += plan.group) {
        const std::size_t quads = plan.quads - first < plan.group ? plan.quads - first : plan.group;
        for (std::size_t q = 0; q < quads; ++q) {
            const std::size_t client = 4 * (first + q), left = plan.n - client;
            build_quad<T>(rows + client, left < 4 ? left : 4, at, work.table + q * 16 * kSlot, check);
        }
        const TableSums sums{plan, work, first, quads, tile + in_tile * sizeof(T)};
        std::size_t r = 0;
        for (; r + 8 <= plan.tabled; r += 8) add_quads<T, 8>(sums, r, bounded);
        if (r + 4 <= plan.tabled) {
            add_quads<T, 4>(sums, r, bounded);
            r += 4;
        }
        for (; r < plan.tabled; ++r) add_quads<T, 1>(sums, r, bounded);
    }
    return check.finite();
}

// Columns [in_tile, in_tile + 4 vectors) of the rows that are listed entry by entry.
template <class T>
TALLYSTICK_HD bool mix_by_lists(const char* const* rows, std::size_t column, std::size_t in_tile,
                                const MixPlan& plan, const MixWork& work, char* tile) {
    constexpr std::size_t kWidth = 4 * kDoubles;
    const std::size_t at = (column + in_tile) * sizeof(T);
    FiniteCheck<double> check;
    for (std::size_t i = 0; i < plan.n; ++i)
#pragma GCC unroll 4
        for (std::size_t k = 0; k < 4; ++k) {
            const DoubleVec x = load_widened<T>(rows[i] + at + k * kDoubles * sizeof(T));
            check.see(x);
            store(work.wide + i * kWidth + k * kDoubles, x);
        }
    for (std::size_t l = 0; l < plan.lists; ++l) {
        const MixList& list = plan.list[l];
        DoubleVec sum[4] = {};
        if (list.equal) {
            const MixEntry* e = list.first;
            while (e != list.last) {  // the members of a quad, then the quad, as the tables do
                const std::uint32_t quad = e->client / 4;
                DoubleVec low[4] = {}, high[4] = {};
                bool has_low = false, has_high = false;
                for (; e != list.last && e->client / 4 == quad; ++e) {
                    const bool upper = (e->client & 2) != 0;
                    const double* const x = work.wide + e->client * kWidth;
#pragma GCC unroll 4
                    for (std::size_t k = 0; k < 4; ++k) {
                        const DoubleVec v = load<DoubleVec>(x + k * kDoubles);
                        if (upper) {
                            high[k] = has_high ? high[k] + v : v;
                        } else {
                            low[k] = has_low ? low[k] + v : v;
                        }
                    }
                    (upper ? has_high : has_low) = true;
                }
#pragma GCC unroll 4
                for (std::size_t k = 0; k < 4; ++k)
                    sum[k] += has_low && has_high ? low[k] + high[k] : has_low ? low[k] : high[k];
            }
#pragma GCC unroll 4
            for (std::size_t k = 0; k < 4; ++k) sum[k] = splat(list.scale) * sum[k];
        } else {
            for (const MixEntry* e = list.first; e != list.last; ++e) {
                const DoubleVec w = splat(e->weight);
#pragma GCC unroll 4
                for (std::size_t k = 0; k < 4; ++k)
                    sum[k] = fused(w, load<DoubleVec>(work.wide + e->client * kWidth + k * kDoubles), sum[k]);
            }
        }
#pragma GCC unroll 4
        for (std::size_t k = 0; k < 4; ++k)
            store_narrowed<T>(tile + (plan.tabled + l) * work.stride + (in_tile + k * kDoubles) * sizeof(T),
                              sum[k], plan.bounded);
    }
    return check.finite();
}

// kTile columns of all virtual clients, from `column` on, to tile, work.stride bytes a row. False: an input
// is not finite.
template <class T>
bool mix(const char* const* rows, std::size_t column, const MixPlan& plan, const MixWork& work, char* tile) {
    Ahead::share<T>(rows, plan.n, column, kTile).fetch_all();
    bool finite = true;
    if (plan.tabled > 0)
        for (std::size_t c = 0; c < kTile; c += kDoubles)
            finite = mix_by_tables<T>(rows, column, c, plan, work, tile) && finite;
    if (plan.lists > 0)
        for (std::size_t c = 0; c < kTile; c += 4 * kDoubles)
            finite = mix_by_lists<T>(rows, column, c, plan, work, tile) && finite;
    return finite;
}

}  // namespace LEVEL
