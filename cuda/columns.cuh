// What kernels over columns share: where a column's values are, what is reported, and the tiers of
// csrc/exact.h.
#pragma once
#include <cstddef>
#include <cstdint>

#include "dev.h"
#include "exact.h"
#include "rounding.h"

namespace tallystick::cuda {

constexpr unsigned kBlock = 256;
constexpr unsigned kInline = 128;  // rows whose addresses travel as kernel arguments

// ---- Rows and reports ----

// Where the columns of each client are: in the arguments of the kernel, or in a table in device memory.
struct InlineRows {
    std::uint64_t address[kInline];

    template <class T>
    TALLYSTICK_HD const T* row(unsigned i) const {
        return reinterpret_cast<const T*>(address[i]);
    }
};
struct TableRows {
    const std::uint64_t* address;
    std::size_t first;  // column, counted from the addresses

    template <class T>
    TALLYSTICK_HD const T* row(unsigned i) const {
        return reinterpret_cast<const T*>(address[i]) + first;
    }
};

// What kernels tell the host and each other.
struct Report {
    unsigned* bad;      // by client: not 0 where a NaN or infinity was seen
    unsigned* pending;  // a bit for every column of the launch that needs tier 3
    unsigned* marks;    // [0]: whether there ever was any
};

__device__ inline void raise(unsigned* word, unsigned bits) {
    if ((load_relaxed(word) & bits) != bits) atomicOr(word, bits);
}

__device__ inline void mark(const Report& report, std::size_t j) {
    raise(report.marks, 1);
    atomicOr(report.pending + j / 32, 1u << j % 32);
}

template <class V>
__device__ inline bool finite(V x) {
    return x - x == 0;
}

// 0 stays 0 as long as all x are finite.
__device__ inline float taint(float poison, float x) { return fmaf(x, 0.0f, poison); }
__device__ inline double taint(double poison, double x) { return fused(x, 0.0, poison); }

// Reports the clients whose value in column j is a NaN or infinity; true if there are any.
template <class T, class RowsAt>
__device__ bool blame(const RowsAt& rows, unsigned n, std::size_t j, const Report& report) {
    bool any = false;
    for (unsigned i = 0; i < n; ++i) {
        if (finite(widen(rows.template row<T>(i)[j]))) continue;
        raise(report.bad + i, 1);
        any = true;
    }
    return any;
}

__device__ inline std::size_t first_column() { return std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ inline std::size_t all_threads() { return std::size_t{gridDim.x} * blockDim.x; }

// The terms of a mean, as exact.h wants them: n values of one column and their weights.
template <class T, class RowsAt, bool kWeighted>
struct Terms {
    const RowsAt& rows;
    const double* weights;
    std::size_t j;

    TALLYSTICK_HD double weight(std::size_t i) const {
        if constexpr (kWeighted) return weights[i];
        return 1.0;
    }
    TALLYSTICK_HD auto raw(unsigned i) const { return widen(rows.template row<T>(i)[j]); }
    TALLYSTICK_HD double value(std::size_t i) const {
        return static_cast<double>(raw(static_cast<unsigned>(i)));
    }
};

template <class T>
constexpr bool kIsDouble = sizeof(T) == 8;

// Tier 2, given the sum and max|x|. True: both ends of b are the mean. usable: the mean lies in b.
template <class T>
__device__ bool settle(LongSum sum, double largest, const MeanScale& scale, Bracket<T>& b, bool& usable) {
    sum.lost += largest * scale.inexact;
    b = bracket<T>(divide(sum, scale));
    const bool sane = finite(sum.high);
    usable = sane && in_range<T>(largest);
    if constexpr (kIsDouble<T>) {
        if (sane && largest == 0) {
            b = {0.0, 0.0};
            return true;
        }
    }
    return usable && same(b.low, b.high);
}

struct Sum {
    LongSum sum;
    double largest = 0;
};
template <bool kWeighted, class Terms>
__device__ Sum long_sum(const Terms& terms, unsigned n) {
    Sum s;
    for (unsigned i = 0; i < n; ++i) {
        const double w = kWeighted ? terms.weight(i) : 1.0;
        if (kWeighted && w == 0) continue;
        const double x = terms.value(i), size = magnitude(x);
        s.largest = size > s.largest ? size : s.largest;
        if constexpr (kWeighted) {
            add(s.sum, w, x);
        } else {
            add(s.sum, x);
        }
    }
    return s;
}

// All that can follow tier 1: 2, then 3.
template <class T, bool kWeighted, class Terms>
__device__ T resolve(const Terms& terms, unsigned n, const MeanScale& scale) {
    const Sum s = long_sum<kWeighted>(terms, n);
    Bracket<T> b;
    bool usable;
    if (settle(s.sum, s.largest, scale, b, usable)) return b.low;
    const std::int64_t limit = key_of(narrow<T>(s.largest));
    std::int64_t low = -limit, high = limit;
    if (usable) {
        const std::int64_t from = key_of(b.low), to = key_of(b.high);
        low = from < low ? low : from;
        high = to > high ? high : to;
    }
    return exact_mean<T>(terms, n, low, high);
}

// Calls body(j) for every marked column, and clears the marks.
template <class Body>
__device__ void for_marked(const Report& report, std::size_t count, Body body) {
    if (load_relaxed(report.marks) == 0) return;
    for (std::size_t word = first_column(); word < (count + 31) / 32; word += all_threads()) {
        unsigned bits = report.pending[word];
        if (bits == 0) continue;
        report.pending[word] = 0;
        for (; bits; bits &= bits - 1)
            body(word * 32 + static_cast<unsigned>(__ffs(static_cast<int>(bits)) - 1));
    }
}

__device__ inline float lower(float a, float b) {
    return fminf(a, b);
}  // one instruction; NaN is caught apart
__device__ inline float upper(float a, float b) { return fmaxf(a, b); }
__device__ inline double lower(double a, double b) { return b < a ? b : a; }
__device__ inline double upper(double a, double b) { return b < a ? a : b; }

}  // namespace tallystick::cuda
