// Mean and majority of signs over clients, one thread per column. Each value is read once: per column n *
// sizeof(T) bytes read, sizeof(T) written; 32 columns of one row make one request. The values of a column
// that was not certain, or held a NaN, are read again from the cache.
//
// Correct rounding, with the tiers of csrc/exact.h: 1 and 2 in the main kernel; a column that needs tier 3 is
// marked in a bitmap, and a second kernel, which has the registers for it, works off the marks (hardly ever
// any).
#include "aggregate.cuh"

#include <stdexcept>
#include <vector>

#include "columns.cuh"
#include "walk.cuh"
#include "weights.h"

namespace tallystick::cuda {
namespace {

// ---- Kernels ----

template <class T, bool kWeighted, class RowsAt>
__global__ void __launch_bounds__(kBlock, 1)
    mean_kernel(const __grid_constant__ RowsAt rows, unsigned n, const double* weights,
                const __grid_constant__ MeanScale scale, std::size_t count, T* out, Report report) {
    for (std::size_t j = first_column(); j < count; j += all_threads()) {
        const Terms<T, RowsAt, kWeighted> terms{rows, weights, j};
        bool certain;
        T result;
        if constexpr (kIsDouble<T>) {
            LongSum sum;
            double largest = 0;
#pragma unroll 4
            for (unsigned i = 0; i < n; ++i) {
                const double x = terms.raw(i);
                largest = upper(largest, magnitude(x));
                if constexpr (kWeighted) {
                    add_unchecked(sum, weights[i], x);
                } else {
                    add_unchecked(sum, x);
                }
            }
            sum.lost = scale.step_dd * scale.total * largest;
            Bracket<T> b;
            bool usable;
            certain = settle(sum, largest, scale, b, usable);
            result = b.low;
        } else {
            double sum = 0;
            float largest = 0;
#pragma unroll 8
            for (unsigned i = 0; i < n; ++i) {
                const float x = terms.raw(i);
                largest = fmaxf(largest, fabsf(x));
                if constexpr (kWeighted) {
                    sum = fused(weights[i], static_cast<double>(x), sum);
                } else {
                    sum += static_cast<double>(x);
                }
            }
            certain = certify(sum, static_cast<double>(largest), scale, result) && finite(sum);
        }
        if (!certain && !blame<T>(rows, n, j, report)) {
            const Sum s = long_sum<kWeighted>(terms, n);
            Bracket<T> b;
            bool usable;
            if (!settle(s.sum, s.largest, scale, b, usable)) mark(report, j);
            result = b.low;
        }
        out[j] = result;
    }
}

template <class T, bool kWeighted>
__global__ void __launch_bounds__(kBlock, 1)
    exact_mean_kernel(TableRows rows, unsigned n, const double* weights,
                      const __grid_constant__ MeanScale scale, std::size_t count, T* out, Report report) {
    for_marked(report, count, [&](std::size_t j) {
        out[j] = resolve<T, kWeighted>(Terms<T, TableRows, kWeighted>{rows, weights, j}, n, scale);
    });
}

template <class T, class RowsAt>
__global__ void __launch_bounds__(kBlock, 1) majority_kernel(const __grid_constant__ RowsAt rows, unsigned n,
                                                             std::size_t count, T* out, Report report) {
    for (std::size_t j = first_column(); j < count; j += all_threads()) {
        Widened<T> poison = 0;
        int votes = 0;
#pragma unroll 8
        for (unsigned i = 0; i < n; ++i) {
            const auto x = widen(rows.template row<T>(i)[j]);
            poison = taint(poison, x);
            votes += (x > 0) - (x < 0);
        }
        if (!(poison == 0)) blame<T>(rows, n, j, report);
        out[j] = narrow<T>(static_cast<double>((votes > 0) - (votes < 0)));
    }
}

template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    nonfinite_kernel(TableRows rows, unsigned n, std::size_t count, Report report) {
    for (std::size_t j = first_column(); j < count; j += all_threads()) blame<T>(rows, n, j, report);
}

// ---- Launchers ----

template <class T, bool kWeighted>
Clients mean_of(const Rows& rows, const double* weights, const MeanScale& scale, T* out, Stream stream) {
    Walk<T> walk(rows, stream);
    const auto n = static_cast<unsigned>(rows.n);
    Buffer<double> w(kWeighted ? rows.n : 1, walk.stream());
    if (kWeighted) w.set(weights);
    return walk.each([&](const Columns& c) {
        const unsigned grid = walk.grid(c.count, kBlock);
        if (rows.n <= kInline) {
            TALLYSTICK_LAUNCH((mean_kernel<T, kWeighted, InlineRows>), grid, kBlock, 0, walk.stream(),
                              c.inlined, n, w.data(), scale, c.count, out + c.at, walk.report());
        } else {
            TALLYSTICK_LAUNCH((mean_kernel<T, kWeighted, TableRows>), grid, kBlock, 0, walk.stream(), c.table,
                              n, w.data(), scale, c.count, out + c.at, walk.report());
        }
        check_launch();
        TALLYSTICK_LAUNCH((exact_mean_kernel<T, kWeighted>), walk.grid((c.count + 31) / 32, kBlock), kBlock,
                          0, walk.stream(), c.table, n, w.data(), scale, c.count, out + c.at, walk.report());
        check_launch();
    });
}

template <class T>
Clients majority_of(const Rows& rows, T* out, Stream stream) {
    Walk<T> walk(rows, stream);
    const auto n = static_cast<unsigned>(rows.n);
    return walk.each([&](const Columns& c) {
        const unsigned grid = walk.grid(c.count, kBlock);
        if (rows.n <= kInline) {
            TALLYSTICK_LAUNCH((majority_kernel<T, InlineRows>), grid, kBlock, 0, walk.stream(), c.inlined, n,
                              c.count, out + c.at, walk.report());
        } else {
            TALLYSTICK_LAUNCH((majority_kernel<T, TableRows>), grid, kBlock, 0, walk.stream(), c.table, n,
                              c.count, out + c.at, walk.report());
        }
        check_launch();
    });
}

template <class T>
Clients nonfinite_of(const Rows& rows, Stream stream) {
    Walk<T> walk(rows, stream);
    return walk.each([&](const Columns& c) {
        TALLYSTICK_LAUNCH((nonfinite_kernel<T>), walk.grid(c.count, kBlock), kBlock, 0, walk.stream(),
                          c.table, static_cast<unsigned>(rows.n), c.count, walk.report());
        check_launch();
    });
}

}  // namespace

Clients mean(const Rows& rows, const double* weights, void* out, Stream stream) {
    check_arguments(rows, out);
    if (rows.d() == 0) return {};
    std::vector<double> scaled;
    const MeanArguments a = mean_arguments(weights, rows.n, rows.dtype == Dtype::float64, scaled);
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        if (a.weights) return mean_of<T, true>(rows, a.weights, a.scale, static_cast<T*>(out), stream);
        return mean_of<T, false>(rows, nullptr, a.scale, static_cast<T*>(out), stream);
    });
}

Clients majority(const Rows& rows, void* out, Stream stream) {
    check_arguments(rows, out);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return majority_of<T>(rows, static_cast<T*>(out), stream);
    });
}

Clients nonfinite(const Rows& rows, Stream stream) {
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) { return nonfinite_of<decltype(x)>(rows, stream); });
}

#if TALLYSTICK_EMULATED
int device_count(std::string& reason) {
    reason = "emulated on the CPU (TALLYSTICK_CUDA=EMULATE): for tests";
    return 1;
}
#else
int device_count(std::string& reason) {
    int count = 0, driver = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) return count;
    cudaGetLastError();  // or the next launch would report it
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        reason = "there is no NVIDIA driver on this machine";
    } else if (error == cudaErrorInsufficientDriver) {
        reason = "the NVIDIA driver is for CUDA " + std::to_string(driver / 1000) + "." +
                 std::to_string(driver % 1000 / 10) + ", older than this build's " +
                 std::to_string(CUDART_VERSION / 1000);
    } else {
        reason = std::string("CUDA reports no device: ") + cudaGetErrorString(error);
    }
    return 0;
}
#endif

bool emulated() { return TALLYSTICK_EMULATED; }

}  // namespace tallystick::cuda
