// Column kernels over pieced rows: types, threads, tails. Internal to csrc/.
#pragma once
#include <atomic>
#include <cstring>  // for memcpy

#include "dtype.h"
#include "parallel.h"
#include "rounding.h"
#include "rows.h"

namespace tallystick {

// Calls body with a value of the type that dtype names.
template <class Body>
auto with_type(Dtype dtype, Body body) {
    switch (dtype) {
        case Dtype::float64:
            return body(double{});
        case Dtype::float16:
            return body(Half{});
        case Dtype::bfloat16:
            return body(Brain{});
        default:
            return body(float{});
    }
}

// Runs kernel(rows, columns, out) -> finite over all columns, in threads; make_kernel is called in each.
// `columns` is a multiple of kTile. Where a kernel saw something that is not finite, asks who it was.
template <class T, std::size_t kTile, class MakeKernel>
Clients over_columns(const Rows& rows, void* out, MakeKernel make_kernel) {
    constexpr std::size_t kGrain = 4096;  // columns per step of a thread
    std::atomic<bool> suspicious{false};
    parallel_for(rows.d(), kGrain, [&](std::size_t lo, std::size_t hi) {
        auto kernel = make_kernel();
        char tail[kTile * sizeof(T)] = {};
        walk(rows, lo, hi, kTile, [&](const char* const* addresses, std::size_t columns, std::size_t c) {
            char* const target = static_cast<char*>(out) + c * sizeof(T);
            const bool partial = c + columns > hi;
            if (!kernel(addresses, columns, partial ? tail : target))
                suspicious.store(true, std::memory_order_relaxed);
            if (partial) std::memcpy(target, tail, (hi - c) * sizeof(T));
        });
    });
    return suspicious ? nonfinite(rows) : Clients{};
}

}  // namespace tallystick
