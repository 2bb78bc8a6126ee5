// Weighted sum over clients, one thread per column: n * sizeof(T) bytes read, sizeof(T) written. The values
// of a column whose sum is not finite are read again. Order and rounding as in csrc/combine.h.
#include "combine.cuh"

#include "columns.cuh"
#include "walk.cuh"

namespace tallystick::cuda {
namespace {

// ---- Kernels ----

template <class T, class RowsAt>
__global__ void __launch_bounds__(kBlock, 1)
    combine_kernel(const __grid_constant__ RowsAt rows, unsigned n, const double* weights, std::size_t count,
                   T* out, Report report) {
    for (std::size_t j = first_column(); j < count; j += all_threads()) {
        LongSum sum;
#pragma unroll 8
        for (unsigned i = 0; i < n; ++i) {
            const double x = static_cast<double>(widen(rows.template row<T>(i)[j]));
            if constexpr (kIsDouble<T>) {
                add_unchecked(sum, weights[i], x);
            } else {
                sum.high = fused(weights[i], x, sum.high);
            }
        }
        if (!finite(sum.high)) {
            blame<T>(rows, n, j, report);
            sum = {without_nan(sum.high), 0, 0};
        }
        out[j] = narrow<T>(sum.high + sum.low);
    }
}

// ---- Launchers ----

template <class T>
Clients combine_of(const Rows& rows, const double* weights, T* out, Stream stream) {
    Walk<T> walk(rows, stream);
    const auto n = static_cast<unsigned>(rows.n);
    Buffer<double> w(rows.n, walk.stream());
    w.set(weights);
    return walk.each([&](const Columns& c) {
        const unsigned grid = walk.grid(c.count, kBlock);
        if (rows.n <= kInline) {
            TALLYSTICK_LAUNCH((combine_kernel<T, InlineRows>), grid, kBlock, 0, walk.stream(), c.inlined, n,
                              w.data(), c.count, out + c.at, walk.report());
        } else {
            TALLYSTICK_LAUNCH((combine_kernel<T, TableRows>), grid, kBlock, 0, walk.stream(), c.table, n,
                              w.data(), c.count, out + c.at, walk.report());
        }
        check_launch();
    });
}

}  // namespace

Clients combine(const Rows& rows, const double* weights, void* out, Stream stream) {
    check_arguments(rows, out);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return combine_of<T>(rows, weights, static_cast<T*>(out), stream);
    });
}

}  // namespace tallystick::cuda
