// Trimmed mean over clients, one thread per column: sorted in registers for up to kNetwork rows, else the
// borders of what is kept by bisection. Per column n * sizeof(T) bytes read, sizeof(T) written. Rounding as
// in aggregate.cu.
#include <stdexcept>
#include <string>
#include <vector>

#include "aggregate.cuh"
#include "kept.cuh"
#include "select.cuh"
#include "walk.cuh"
#include "weights.h"

namespace tallystick::cuda {
namespace {

// ---- Kernels ----

template <class T, std::size_t N>
__global__ void __launch_bounds__(block_of(N), blocks_of(N))
    trimmed_mean_kernel(const __grid_constant__ InlineRows rows, unsigned n, unsigned f,
                        const __grid_constant__ MeanScale scale, std::size_t count, T* out, Report report) {
    using V = decltype(widen(T{}));
    for (std::size_t j = first_column(); j < count; j += all_threads()) {
        V v[N];
        const bool fine = order<T, 0, N>(rows, n, j, 0, v);
        LongSum sum;
        double largest = 0;
        visit_ranks(v, [&](unsigned rank, V value) {
            if (rank < f || rank >= n - f) return;
            const double x = static_cast<double>(value);
            largest = upper(largest, magnitude(x));
            if constexpr (kIsDouble<T>) {
                add_unchecked(sum, x);
            } else {
                sum.high += x;
            }
        });
        T result;
        Bracket<T> b;
        bool usable, certain;
        if constexpr (kIsDouble<T>) {
            sum.lost = scale.step_dd * scale.total * largest;
            certain = settle(sum, largest, scale, b, usable);
            result = b.low;
        } else {
            certain = certify(sum.high, largest, scale, result);
        }
        if (!fine) {
            blame<T>(rows, n, j, report);
        } else if (!certain) {
            LongSum again;
            visit_ranks(v, [&](unsigned rank, V value) {
                if (rank >= f && rank < n - f) add(again, static_cast<double>(value));
            });
            if (!settle(again, largest, scale, b, usable)) mark(report, j);
            result = b.low;
        }
        out[j] = result;
    }
}

template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    wide_trimmed_mean_kernel(TableRows rows, unsigned n, unsigned f, const __grid_constant__ MeanScale scale,
                             std::size_t count, T* out, Report report) {
    for (std::size_t j = first_column(); j < count; j += all_threads()) {
        if (blame<T>(rows, n, j, report)) continue;
        T result;
        if (!kept_mean<T, false>(keep<T>(rows, n, j, f, n - f - 1), n, scale, result)) mark(report, j);
        out[j] = result;
    }
}

template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    exact_trimmed_mean_kernel(TableRows rows, unsigned n, unsigned f, const __grid_constant__ MeanScale scale,
                              std::size_t count, T* out, Report report) {
    for_marked(report, count, [&](std::size_t j) {
        kept_mean<T, true>(keep<T>(rows, n, j, f, n - f - 1), n, scale, out[j]);
    });
}

// ---- Launchers ----

template <class T>
Clients trimmed_mean_of(const Rows& rows, std::size_t f, const MeanScale& scale, T* out, Stream stream) {
    Walk<T> walk(rows, stream);
    const auto n = static_cast<unsigned>(rows.n), trimmed = static_cast<unsigned>(f);
    return walk.each([&](const Columns& c) {
        const bool narrow_enough = with_network<T>(rows.n, [&](auto size) {
            constexpr std::size_t N = size;
            TALLYSTICK_LAUNCH((trimmed_mean_kernel<T, N>), walk.grid(c.count, block_of(N)), block_of(N), 0,
                              walk.stream(), c.inlined, n, trimmed, scale, c.count, out + c.at,
                              walk.report());
        });
        if (!narrow_enough)
            TALLYSTICK_LAUNCH((wide_trimmed_mean_kernel<T>), walk.grid(c.count, kBlock), kBlock, 0,
                              walk.stream(), c.table, n, trimmed, scale, c.count, out + c.at, walk.report());
        check_launch();
        TALLYSTICK_LAUNCH((exact_trimmed_mean_kernel<T>), walk.grid((c.count + 31) / 32, kBlock), kBlock, 0,
                          walk.stream(), c.table, n, trimmed, scale, c.count, out + c.at, walk.report());
        check_launch();
    });
}

}  // namespace

Clients trimmed_mean(const Rows& rows, std::size_t f, void* out, Stream stream) {
    if (2 * f >= rows.n)
        throw std::invalid_argument("trimmed_mean: 2f < " + std::to_string(rows.n) +
                                    " clients expected, got f = " + std::to_string(f));
    if (f == 0) return mean(rows, nullptr, out, stream);
    check_arguments(rows, out);
    if (rows.d() == 0) return {};
    std::vector<double> none;
    const MeanArguments a = mean_arguments(nullptr, rows.n - 2 * f, rows.dtype == Dtype::float64, none);
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return trimmed_mean_of<T>(rows, f, a.scale, static_cast<T*>(out), stream);
    });
}

}  // namespace tallystick::cuda
