#include "column_rules.h"

#include <vector>

namespace tallystick {
namespace {

// What rules with f = 0 are. Rare: nothing is kept between tiles.
ColumnKernel mean_kernel(std::size_t n, Dtype dtype) {
    return [n, dtype](const char* const* rows, std::size_t columns, char* out) {
        std::vector<std::uint64_t> pointers;
        for (std::size_t i = 0; i < n; ++i) pointers.push_back(reinterpret_cast<std::uint64_t>(rows[i]));
        const std::int64_t bounds[] = {0, static_cast<std::int64_t>(columns)};
        return mean({pointers.data(), bounds, n, 1, dtype}, nullptr, out).empty();
    };
}

}  // namespace

MakeColumnKernel column_kernels(const ColumnRule& rule, std::size_t n, Dtype dtype) {
    using Kind = ColumnRule::Kind;
    check_column_rule(rule, n);
    if (rule.kind == Kind::median) return median_kernel(n, dtype, rule.middle);
    if (rule.kind == Kind::majority) return majority_kernel(n, dtype);
    if (rule.f == 0) return [n, dtype] { return mean_kernel(n, dtype); };
    if (rule.kind == Kind::meamed) return meamed_kernel(n, dtype, rule.f);
    if (rule.kind == Kind::phocas) return phocas_kernel(n, dtype, rule.f);
    return trimmed_mean_kernel(n, dtype, rule.f);
}

}  // namespace tallystick
