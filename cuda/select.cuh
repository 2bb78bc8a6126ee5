// Order statistics of a column: networks in registers for few rows, bisection over keys for any number.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>  // for integral_constant
#include <utility>      // for index_sequence

#include "columns.cuh"
#if defined(__CUDACC__)
#pragma nv_diag_suppress 186  // order.h compares with a first rank that may be 0
#endif
#include "order.h"

namespace tallystick::cuda {

// ---- Up to kNetwork rows ----

// Blocks of the selection kernels, and how many ptxas must leave room for: left alone it spills some bytes
// for a block more.
constexpr unsigned block_of(std::size_t network) { return network <= 32 ? kBlock : kBlock / 2; }
constexpr unsigned blocks_of(std::size_t network) { return network <= 32 ? 1 : network == 64 ? 2 : 0; }

// 0 stays 0 as long as all x are finite.
__device__ inline float taint(float poison, float x) { return fmaf(x, 0.0f, poison); }
__device__ inline double taint(double poison, double x) { return fused(x, 0.0, poison); }

template <class Network, std::size_t kAt, class V, std::size_t N>
__device__ __forceinline__ void compare(V (&v)[N]) {
    constexpr Comparator c = Network::kTable.net[kAt];
    const V a = v[c.a], b = v[c.b];
    if constexpr (c.keep_low) v[c.a] = lower(a, b);
    if constexpr (c.keep_high) v[c.b] = upper(a, b);
}
template <class Network, class V, std::size_t N, std::size_t... kAt>
__device__ __forceinline__ void run(V (&v)[N], std::index_sequence<kAt...>) {
    (compare<Network, kAt>(v), ...);
}
// Constant indices only, so that v stays in registers.
template <class Network, class V, std::size_t N>
__device__ __forceinline__ void select(V (&v)[N]) {
    run<Network>(v, std::make_index_sequence<Network::kTable.size>());
}

// Column j into v[0, n), then `below` times -infinity, then +infinity. False if a value was a NaN or
// infinity.
template <class T, class V, std::size_t N>
__device__ __forceinline__ bool load(const InlineRows& rows, unsigned n, std::size_t j, unsigned below,
                                     V (&v)[N]) {
    constexpr V kInfinity = static_cast<V>(__builtin_huge_val());
    V poison = 0;  // stays 0 while all are finite
#pragma unroll
    for (unsigned i = 0; i < N; ++i) {
        if (i < n) {
            v[i] = widen(rows.row<T>(i)[j]);
            poison = taint(poison, v[i]);
        } else {
            v[i] = i - n < below ? -kInfinity : kInfinity;
        }
    }
    return poison == 0;
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

}  // namespace tallystick::cuda
