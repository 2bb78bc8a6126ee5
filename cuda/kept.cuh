// Means of a run of ranks of a column of any number of rows, which stays where it is.
#pragma once
#include <cstddef>
#include <cstdint>

#include "columns.cuh"
#include "select.cuh"

namespace tallystick::cuda {

// The values between two keys, and so many of those equal to either. The count stands as weight of the first
// such value; the others weigh nothing.
template <class T>
struct Kept {
    TableRows rows;
    std::size_t j;
    std::int64_t low, high;
    unsigned low_at, high_at;
    unsigned low_count, high_count;

    TALLYSTICK_HD T raw(std::size_t i) const { return rows.row<T>(static_cast<unsigned>(i))[j]; }
    TALLYSTICK_HD double value(std::size_t i) const { return static_cast<double>(widen(raw(i))); }
    TALLYSTICK_HD double weight(std::size_t i) const {
        const std::int64_t key = key_of(raw(i));
        const unsigned ends = i == low_at ? low_count : i == high_at ? high_count : 0;
        return key > low && key < high ? 1.0 : static_cast<double>(ends);
    }
};

// The ranks first to last of column j.
template <class T>
__device__ Kept<T> keep(const TableRows& rows, unsigned n, std::size_t j, unsigned first, unsigned last) {
    Kept<T> kept{rows, j, key_of_rank<T>(rows, n, j, first), key_of_rank<T>(rows, n, j, last), 0, 0, 0, 0};
    unsigned up_to_low = 0, below_high = 0;
    for (unsigned i = n; i-- > 0;) {
        const std::int64_t key = key_of(kept.raw(i));
        up_to_low += key <= kept.low;
        below_high += key < kept.high;
        kept.low_at = key == kept.low ? i : kept.low_at;
        kept.high_at = key == kept.high ? i : kept.high_at;
    }
    kept.low_count = up_to_low - first;
    kept.high_count = last + 1 - below_high;
    return kept;
}

// Their mean. False: this takes tier 3, which kExact has.
template <class T, bool kExact>
__device__ bool kept_mean(const Kept<T>& kept, unsigned n, const MeanScale& scale, T& out) {
    out = from_key<T>(kept.low);
    if (kept.low == kept.high) return true;
    if constexpr (kExact) {
        out = resolve<T, true>(kept, n, scale);
        return true;
    } else {
        const Sum s = long_sum<true>(kept, n);
        Bracket<T> b;
        bool usable;
        const bool certain = settle(s.sum, s.largest, scale, b, usable);
        out = b.low;
        return certain;
    }
}

}  // namespace tallystick::cuda
