// Ordering of values, and selection networks: which comparators bring which ranks to which wires. The same
// tables for the CPU kernels (registers and L1 tiles) and for CUDA (registers); any of them gives the same
// values, since selecting rounds nothing.
// Source: Batcher, AFIPS 1968 (odd-even merge sort), cut to n wires, then pruned backwards from the outputs.
#pragma once
#include <cstddef>
#include <cstdint>

#include "hd.h"

namespace tallystick {

// (a, b) becomes (smaller, larger). -0 and +0 are equal: such a pair stays as it is. A NaN moves nothing and
// is not lost, but breaks the order of others: kernels detect it on loading.
template <class T>
TALLYSTICK_HD void compare_exchange(T& a, T& b) {
    const bool swap = b < a;
    const T low = swap ? b : a;
    b = swap ? a : b;
    a = low;
}

// Wire a takes the smaller of both if keep_low, wire b the larger if keep_high; else the wire is dead.
struct Comparator {
    std::uint32_t a, b;
    bool keep_low, keep_high;
};

// Calls visit(a, b), a < b, for every comparator of Batcher's network over n wires, without the phases that
// sort blocks of `sorted` wires (a power of two; 1: none is sorted yet).
template <class Visit>
constexpr void batcher(std::size_t n, std::size_t sorted, Visit visit) {
    for (std::size_t p = sorted; p < n; p *= 2)
        for (std::size_t k = p; k >= 1; k /= 2)
            for (std::size_t j = k % p; j + k < n; j += 2 * k)
                for (std::size_t i = 0; i < k && i + j + k < n; ++i)
                    if ((i + j) / (2 * p) == (i + j + k) / (2 * p)) visit(i + j, i + j + k);
}

constexpr std::size_t batcher_size(std::size_t n, std::size_t sorted) {
    std::size_t size = 0;
    batcher(n, sorted, [&size](std::size_t, std::size_t) { ++size; });
    return size;
}

// What becomes of a wire at the end.
enum class Wire : std::uint8_t {
    low,     // below the ranks wanted: dropped
    high,    // above them: dropped
    kept,    // wanted, in any order among the kept (trimmed mean)
    ranked,  // wanted in its place (median)
    live,    // feeds a later comparator
};

// Prunes net[0, size) in place, given the final state of each wire (overwritten); returns the new size. The
// comparators left stand in order at the end of net: net[size - result, size).
constexpr std::size_t prune(Comparator* net, std::size_t size, Wire* wires) {
    std::size_t out = size;
    for (std::size_t i = size; i-- > 0;) {
        const Comparator c = net[i];
        Wire& a = wires[c.a];
        Wire& b = wires[c.b];
        if (a == b && a != Wire::live && a != Wire::ranked) continue;  // order among equals does not matter
        const bool low = a != Wire::low && a != Wire::high, high = b != Wire::low && b != Wire::high;
        net[--out] = {c.a, c.b, low, high};
        a = b = Wire::live;
    }
    return size - out;
}

// The network over N wires that leaves rank r on wire r for kFirst <= r < kLast; ranks in any order among
// them if !kRanked. For constant indices into registers: Selection<N, ...>::kTable.net[i], i < kTable.size.
template <std::size_t N, std::size_t kFirst, std::size_t kLast, bool kRanked>
struct Selection {
    struct Table {
        Comparator net[batcher_size(N, 1) + 1] = {};
        std::size_t size = 0;
    };
    static constexpr Table make() {
        Table full;
        batcher(N, 1, [&full](std::size_t a, std::size_t b) {
            full.net[full.size++] = {static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(b), true,
                                     true};
        });
        Wire wires[N] = {};
        for (std::size_t w = 0; w < N; ++w)
            wires[w] = w < kFirst ? Wire::low : w >= kLast ? Wire::high : kRanked ? Wire::ranked : Wire::kept;
        const std::size_t left = prune(full.net, full.size, wires);
        Table table;
        for (std::size_t i = 0; i < left; ++i) table.net[i] = full.net[full.size - left + i];
        table.size = left;
        return table;
    }
    static constexpr Table kTable = make();
};

}  // namespace tallystick
