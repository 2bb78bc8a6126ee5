// Order statistics of a column: networks in registers for few rows, bisection over keys for any number.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>  // for integral_constant
#include <utility>      // for index_sequence

#include "columns.cuh"
#include "order.h"

namespace tallystick::cuda {

// ---- Up to kNetwork rows ----

// Blocks of the selection kernels, and how many ptxas must leave room for: left alone it spills some bytes
// for a block more.
constexpr unsigned block_of(std::size_t network) { return network <= 32 ? kBlock : kBlock / 2; }
constexpr unsigned blocks_of(std::size_t network) { return network <= 32 ? 1 : network == 64 ? 2 : 0; }

// The comparators that put N wires in order whose blocks of kSorted are, pruned to the ranks [kFirst, kLast).
template <std::size_t N, std::size_t kSorted, std::size_t kFirst, std::size_t kLast>
struct Merging {
    struct Table {
        Comparator net[batcher_size(N, kSorted) + 1] = {};
        std::size_t first = 0, size = 0;  // net[first, size)
    };
    static constexpr Table make() {
        Table table;
        batcher(N, kSorted, [&table](std::size_t a, std::size_t b) {
            table.net[table.size++] = {static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(b), true,
                                       true};
        });
        Wire wires[N] = {};
        for (std::size_t w = 0; w < N; ++w) wires[w] = w >= kLast ? Wire::high : Wire::ranked;
        for (std::size_t w = 0; w != kFirst; ++w) wires[w] = Wire::low;
        table.first = table.size - prune(table.net, table.size, wires);
        return table;
    }
    static constexpr Table kTable = make();
};

// Constant indices only, so that v stays in registers. kAt: where in v the network's first wire is.
template <class Network, std::size_t kAt, std::size_t kIndex, class V, std::size_t N>
__device__ __forceinline__ void compare(V (&v)[N]) {
    constexpr Comparator c = Network::kTable.net[Network::kTable.first + kIndex];
    const V a = v[kAt + c.a], b = v[kAt + c.b];
    if constexpr (c.keep_low) v[kAt + c.a] = lower(a, b);
    if constexpr (c.keep_high) v[kAt + c.b] = upper(a, b);
}
template <class Network, std::size_t kAt, class V, std::size_t N, std::size_t... kIndex>
__device__ __forceinline__ void run(V (&v)[N], std::index_sequence<kIndex...>) {
    (compare<Network, kAt, kIndex>(v), ...);
}
template <class Network, std::size_t kAt, class V, std::size_t N>
__device__ __forceinline__ void run(V (&v)[N]) {
    run<Network, kAt>(v, std::make_index_sequence<Network::kTable.size - Network::kTable.first>());
}

// Column j of rows first, first + 1, ... into v[kAt, kAt + kCount); rows from n on are `below` times
// -infinity, then +infinity. Taints poison.
template <class T, std::size_t kAt, std::size_t kCount, class V, std::size_t N>
__device__ __forceinline__ void load(const InlineRows& rows, unsigned n, unsigned first, std::size_t j,
                                     unsigned below, V (&v)[N], V& poison) {
    constexpr V kInfinity = static_cast<V>(__builtin_huge_val());
#pragma unroll
    for (unsigned k = 0; k < kCount; ++k) {
        const unsigned i = first + k;
        if (i < n) {
            v[kAt + k] = widen(rows.row<T>(i)[j]);
            poison = taint(poison, v[kAt + k]);
        } else {
            v[kAt + k] = i - n < below ? -kInfinity : kInfinity;
        }
    }
}

// Column j, filled up to N values as load() does, with the ranks [kFirst, kLast) in their places. False if a
// value was a NaN or infinity.
template <class T, std::size_t kFirst, std::size_t kLast, class V, std::size_t N>
__device__ __forceinline__ bool order(const InlineRows& rows, unsigned n, std::size_t j, unsigned below,
                                      V (&v)[N]) {
    V poison = 0;
    if constexpr (N <= 64) {
        load<T, 0, N>(rows, n, 0, j, below, v, poison);
        run<Merging<N, 1, kFirst, kLast>, 0>(v);
    } else {
        // A quarter at a time, in a loop that stays one: with 128 loads in a row ptxas for sm_100 and sm_120
        // computes so many addresses ahead that it spills.
        constexpr std::size_t kPart = N / 4, kRest = N - kPart;
#pragma unroll
        for (unsigned i = 0; i < N; ++i) v[i] = 0;
#pragma unroll 1
        for (unsigned first = 0; first < N; first += kPart) {
#pragma unroll
            for (unsigned i = 0; i < kRest; ++i) v[i] = v[i + kPart];
            load<T, kRest, kPart>(rows, n, first, j, below, v, poison);
            run<Merging<kPart, 1, 0, kPart>, kRest>(v);
        }
        run<Merging<N, kPart, kFirst, kLast>, 0>(v);
    }
    return poison == 0;
}

// Calls visit(rank, value) for all of v, upwards; a quarter at a time as above, for the same reason.
template <class V, std::size_t N, class Visit>
__device__ __forceinline__ void visit_ranks(V (&v)[N], Visit visit) {
    constexpr unsigned kPart = N <= 64 ? N : N / 4;
#pragma unroll 1
    for (unsigned first = 0; first < N; first += kPart) {
        V turned[kPart];
#pragma unroll
        for (unsigned k = 0; k < kPart; ++k) visit(first + k, turned[k] = v[k]);
        if constexpr (kPart < N) {  // v is as it was after a full turn
#pragma unroll
            for (unsigned i = 0; i < N - kPart; ++i) v[i] = v[i + kPart];
#pragma unroll
            for (unsigned k = 0; k < kPart; ++k) v[N - kPart + k] = turned[k];
        }
    }
}

// The largest network: float64 values take two registers each.
template <class T>
constexpr std::size_t kNetwork = kIsDouble<T> ? kInline / 2 : kInline;

// Calls f with the size of the smallest network that takes n rows of T, a power of two; false if there is
// none.
template <class T, std::size_t N = 8, class F>
bool with_network(std::size_t n, F f) {
    if (n <= N) {
        f(std::integral_constant<std::size_t, N>{});
        return true;
    }
    if constexpr (N < kNetwork<T>) return with_network<T, 2 * N>(n, f);
    return false;
}

// ---- Any number of rows: each step of the bisection reads the column once, from the cache ----

// Key of the value of rank k (from 0) in column j: the smallest that more than k values do not exceed.
template <class T>
__device__ std::int64_t key_of_rank(const TableRows& rows, unsigned n, std::size_t j, unsigned k) {
    std::int64_t low = -Format<T>::kLargest, high = Format<T>::kLargest;
    while (low < high) {
        const std::uint64_t width = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
        const std::int64_t middle = low + static_cast<std::int64_t>(width >> 1);
        unsigned up_to = 0;
        for (unsigned i = 0; i < n; ++i) up_to += key_of(rows.row<T>(i)[j]) <= middle;
        if (up_to > k) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

// Keys of the middle two ranks, of an odd n the same one twice.
struct Keys {
    std::int64_t low, high;
};
template <class T>
__device__ Keys middle_keys(const TableRows& rows, unsigned n, std::size_t j) {
    const unsigned rank = (n - 1) / 2;
    const std::int64_t low = key_of_rank<T>(rows, n, j, rank);
    std::int64_t next = Format<T>::kLargest;
    unsigned up_to = 0;
    for (unsigned i = 0; i < n; ++i) {
        const std::int64_t key = key_of(rows.row<T>(i)[j]);
        up_to += key <= low;
        next = key > low && key < next ? key : next;
    }
    return {low, n / 2 == rank || up_to > n / 2 ? low : next};
}

}  // namespace tallystick::cuda
