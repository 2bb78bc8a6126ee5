// Walks columns of pieced, unaligned rows in runs that kernels can take. Internal to csrc/.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>  // for memcpy
#include <memory>
#include <new>
#include <vector>

#include "aggregate.h"

namespace tallystick {

// Aligned memory for one thread's tile.
class Scratch {
  public:
    explicit Scratch(std::size_t bytes)
        : memory_(static_cast<char*>(::operator new(bytes + 64, std::align_val_t{64}))) {}
    char* get() const { return memory_.get(); }

  private:
    struct Free {
        void operator()(char* p) const { ::operator delete(p, std::align_val_t{64}); }
    };
    std::unique_ptr<char, Free> memory_;
};

// Copies columns [lo, hi) of client i, over piece borders, to `to`. `k`: the piece of column lo.
inline void copy_columns(const Rows& rows, std::size_t i, std::size_t k, std::size_t lo, std::size_t hi,
                         char* to) {
    const std::size_t size = size_of(rows.dtype);
    for (std::size_t c = lo; c < hi; ++k) {
        const auto first = static_cast<std::size_t>(rows.bounds[k]);
        const std::size_t end = std::min<std::size_t>(hi, static_cast<std::size_t>(rows.bounds[k + 1]));
        const auto* from = reinterpret_cast<const char*>(rows.pointers[i * rows.pieces + k]);
        std::memcpy(to, from + (c - first) * size, (end - c) * size);
        to += (end - c) * size;
        c = end;
    }
}

// The piece of column c < d.
inline std::size_t piece_of(const Rows& rows, std::size_t c) {
    const std::int64_t* end = rows.bounds + rows.pieces + 1;
    return static_cast<std::size_t>(std::upper_bound(rows.bounds, end, static_cast<std::int64_t>(c)) -
                                    rows.bounds - 1);
}

// Calls run(addresses, columns, c) for runs that cover [lo, hi): addresses[i] is where `columns` values of
// client i stand from column c on. Inside a piece `columns` is a multiple of `tile`, at most kLongestRun;
// what is left of it is gathered with the columns after it into one tile, padded with zeros (columns ==
// tile, maybe beyond hi).
constexpr std::size_t kLongestRun = 4096;
template <class Run>
void walk(const Rows& rows, std::size_t lo, std::size_t hi, std::size_t tile, Run run) {
    const std::size_t size = size_of(rows.dtype);
    std::vector<const char*> addresses(rows.n);
    std::unique_ptr<Scratch> gathered;
    std::size_t k = piece_of(rows, lo);
    for (std::size_t c = lo; c < hi;) {
        while (static_cast<std::size_t>(rows.bounds[k + 1]) <= c) ++k;
        const auto first = static_cast<std::size_t>(rows.bounds[k]);
        const std::size_t end = std::min<std::size_t>(hi, static_cast<std::size_t>(rows.bounds[k + 1]));
        std::size_t columns = std::min(end - c, kLongestRun) / tile * tile, count = columns;
        if (columns > 0) {
            for (std::size_t i = 0; i < rows.n; ++i)
                addresses[i] =
                    reinterpret_cast<const char*>(rows.pointers[i * rows.pieces + k]) + (c - first) * size;
        } else {
            if (!gathered) gathered = std::make_unique<Scratch>(rows.n * tile * size);
            columns = tile;
            count = std::min(tile, hi - c);
            for (std::size_t i = 0; i < rows.n; ++i) {
                char* to = gathered->get() + i * tile * size;
                copy_columns(rows, i, k, c, c + count, to);
                std::memset(to + count * size, 0, (tile - count) * size);
                addresses[i] = to;
            }
        }
        run(addresses.data(), columns, c);
        c += count;
    }
}

}  // namespace tallystick
