// Median over clients, one thread per column, the whole column in registers for up to kNetwork rows: per
// column n * sizeof(T) bytes read, sizeof(T) written. No local memory: cuda/gate.sh checks that.
#include "aggregate.cuh"
#include "select.cuh"
#include "walk.cuh"

namespace tallystick::cuda {
namespace {

// ---- Kernels ----

template <class T>
__device__ T middle_value(double low, double high, Middle middle) {
    if (middle == Middle::mid) return middle_of<T>(low, high);
    return narrow<T>(middle == Middle::lower ? low : high);
}

// As many infinities below as above (one more above if the sum is odd) keep the middle on wires N/2 - 1 and
// N/2.
template <class T, std::size_t N>
__global__ void __launch_bounds__(block_of(N), blocks_of(N))
    median_kernel(const __grid_constant__ InlineRows rows, unsigned n, Middle middle, std::size_t count,
                  T* out, Report report) {
    using V = decltype(widen(T{}));
    for (std::size_t j = first_column(); j < count; j += all_threads()) {
        V v[N];
        const bool fine = order<T, N / 2 - 1, N / 2 + 1>(rows, n, j, (static_cast<unsigned>(N) - n) / 2, v);
        const V low = v[N / 2 - 1], high = n % 2 ? low : v[N / 2];
        out[j] = middle_value<T>(low, high, middle);
        if (!fine) blame<T>(rows, n, j, report);
    }
}

template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    wide_median_kernel(TableRows rows, unsigned n, Middle middle, std::size_t count, T* out, Report report) {
    for (std::size_t j = first_column(); j < count; j += all_threads()) {
        if (blame<T>(rows, n, j, report)) continue;
        const Keys keys = middle_keys<T>(rows, n, j);
        out[j] = middle_value<T>(static_cast<double>(widen(from_key<T>(keys.low))),
                                 static_cast<double>(widen(from_key<T>(keys.high))), middle);
    }
}

// ---- Launchers ----

template <class T>
Clients median_of(const Rows& rows, Middle middle, T* out, Stream stream) {
    Walk<T> walk(rows, stream);
    const auto n = static_cast<unsigned>(rows.n);
    return walk.each([&](const Columns& c) {
        const bool narrow_enough = with_network<T>(rows.n, [&](auto size) {
            constexpr std::size_t N = size;
            TALLYSTICK_LAUNCH((median_kernel<T, N>), walk.grid(c.count, block_of(N)), block_of(N), 0,
                              walk.stream(), c.inlined, n, middle, c.count, out + c.at, walk.report());
        });
        if (!narrow_enough)
            TALLYSTICK_LAUNCH((wide_median_kernel<T>), walk.grid(c.count, kBlock), kBlock, 0, walk.stream(),
                              c.table, n, middle, c.count, out + c.at, walk.report());
        check_launch();
    });
}

}  // namespace

Clients median(const Rows& rows, Middle middle, void* out, Stream stream) {
    check_arguments(rows, out);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return median_of<T>(rows, middle, static_cast<T*>(out), stream);
    });
}

}  // namespace tallystick::cuda
