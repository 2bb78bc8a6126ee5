#include "column_rules.h"

#include <stdexcept>  // for invalid_argument

namespace tallystick {

std::function<ColumnKernel()> column_kernels(const ColumnRule& rule, std::size_t n, Dtype dtype) {
    if (rule.kind == ColumnRule::Kind::trimmed_mean && 2 * rule.f >= n)
        throw std::invalid_argument("trimmed_mean: 2f < " + std::to_string(n) +
                                    " clients expected, got f = " + std::to_string(rule.f));
    return [=]() -> ColumnKernel {
        return [=](const char* const* rows, std::size_t columns, char* out) {
            const std::int64_t bounds[] = {0, static_cast<std::int64_t>(columns)};
            std::vector<std::uint64_t> pointers;
            for (std::size_t i = 0; i < n; ++i) pointers.push_back(reinterpret_cast<std::uint64_t>(rows[i]));
            const Rows tile{pointers.data(), bounds, n, 1, dtype};
            if (rule.kind == ColumnRule::Kind::median) return median(tile, rule.middle, out).empty();
            return trimmed_mean(tile, rule.f, out).empty();
        };
    };
}

}  // namespace tallystick
