#include "running_mean.h"

#include <atomic>
#include <cstdint>
#include <limits>

#include "cpu.h"
#include "exact.h"
#include "hd.h"
#include "parallel.h"
#include "rounding.h"
#include "typed.h"

namespace tallystick {
namespace {

constexpr std::size_t kGrain = 1 << 14;

// Infinity where a product of float64 data leaves the range in which TwoProduct is exact.
template <class In>
TALLYSTICK_HD double outside(double, double) {
    return 0;
}
template <>
TALLYSTICK_HD double outside<double>(double product, double value) {
    const bool inside = value == 0 || (product >= 0x1p-900 && product <= 0x1p+990);
    return inside ? 0 : std::numeric_limits<double>::infinity();
}

#define TALLYSTICK_KERNELS "running_mean_kernels.h"
#include "levels.h"

using Add = bool (*)(const char*, double, std::size_t, double*, double*, double*);

template <class In>
Add adder() {
    constexpr Variants<Add> variants{TALLYSTICK_VARIANTS(running_add<In>)};
    return *variants;
}

Add adder_of(Dtype dtype) {
    return with_type(dtype, [](auto x) { return adder<decltype(x)>(); });
}

MeanScale scale_of(const double* weights, std::size_t n) {
    LongSum total;
    for (std::size_t i = 0; i < n; ++i) add(total, weights[i]);
    const TwoSum both = two_sum(total.high, total.low);
    MeanScale scale{};
    scale.total = both.sum;
    scale.total_low = both.error;
    scale.total_error = total.lost;
    scale.inverse = 1 / both.sum;
    return scale;
}

// 2 S - W (a + b) as the sum over five terms w_i (2 x_i - a - b), for exact_mean: S = high + low, W = the
// weights.
struct Remainder {
    double high, low, total, total_low;
    double weight(std::size_t i) const { return i < 2 ? 1 : i == 2 ? total : i == 3 ? total_low : -2; }
    double value(std::size_t i) const { return i == 0 ? high : i == 1 ? low : 0; }
};

template <class T>
bool finish_column(const LongSum& sum, const MeanScale& scale, T& out) {
    const Quotient q = divide(sum, scale);
    if (!(q.error < std::numeric_limits<double>::infinity())) {
        out = narrow_sum<T>(q.near, 0);
        return false;
    }
    const Bracket<T> ends = bracket<T>(q);
    out = ends.low;
    if (same(ends.low, ends.high)) return true;
    if (sum.lost != 0 || scale.total_error != 0) {
        out = narrow_sum<T>(q.near, q.rest);
        return false;
    }
    const Remainder terms{sum.high, sum.low, scale.total, scale.total_low};
    out = exact_mean<T>(terms, 5, key_of(ends.low), key_of(ends.high));
    return true;
}

template <class T>
std::size_t finish(const RunningSums& sums, std::size_t d, const MeanScale& scale, char* out) {
    std::atomic<std::size_t> uncertain{0};
    parallel_for(d, kGrain, [&](std::size_t lo, std::size_t hi) {
        std::size_t found = 0;
        for (std::size_t j = lo; j < hi; ++j) {
            T value;
            found += !finish_column(LongSum{sums.high[j], sums.low[j], sums.lost[j]}, scale, value);
            __builtin_memcpy(out + j * sizeof value, &value, sizeof value);
        }
        uncertain += found;
    });
    return uncertain;
}

}  // namespace

bool running_mean_add(const Rows& rows, double weight, const RunningSums& sums) {
    const Add add_values = adder_of(rows.dtype);
    const std::size_t size = size_of(rows.dtype);
    std::atomic<bool> finite{true};
    for (std::size_t k = 0; k < rows.pieces; ++k) {
        const auto first = static_cast<std::size_t>(rows.bounds[k]);
        const auto last = static_cast<std::size_t>(rows.bounds[k + 1]);
        const char* x = reinterpret_cast<const char*>(rows.pointers[k]);
        parallel_for(last - first, kGrain, [&](std::size_t lo, std::size_t hi) {
            double* const at[] = {sums.high + first + lo, sums.low + first + lo, sums.lost + first + lo};
            if (!add_values(x + lo * size, weight, hi - lo, at[0], at[1], at[2])) finite = false;
        });
    }
    return finite;
}

std::size_t running_mean_finish(const RunningSums& sums, std::size_t d, const double* weights, std::size_t n,
                                Dtype dtype, void* out) {
    const MeanScale scale = scale_of(weights, n);
    auto* to = static_cast<char*>(out);
    return with_type(dtype, [&](auto x) { return finish<decltype(x)>(sums, d, scale, to); });
}

}  // namespace tallystick
