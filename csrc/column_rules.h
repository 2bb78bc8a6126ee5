// The column rules of aggregate.h by name, for callers that make their rows tile by tile.
#pragma once
#include <stdexcept>  // for invalid_argument
#include <string>

#include "column_kernels.h"

namespace tallystick {

struct ColumnRule {
    enum class Kind { median, trimmed_mean, meamed, phocas, majority } kind;
    Middle middle;  // of a median
    std::size_t f;  // of trimmed_mean, meamed, phocas
};

// std::invalid_argument if f is too large for n rows.
inline void check_column_rule(const ColumnRule& rule, std::size_t n) {
    using Kind = ColumnRule::Kind;
    const bool twice = rule.kind == Kind::trimmed_mean || rule.kind == Kind::phocas;
    if (rule.f < n && (!twice || 2 * rule.f < n)) return;
    const char* name = rule.kind == Kind::meamed   ? "meamed: f"
                       : rule.kind == Kind::phocas ? "phocas: 2f"
                                                   : "trimmed_mean: 2f";
    throw std::invalid_argument(std::string(name) + " < " + std::to_string(n) +
                                " clients expected, got f = " + std::to_string(rule.f));
}

// Kernels of the rule, checked as above, for n rows.
MakeColumnKernel column_kernels(const ColumnRule& rule, std::size_t n, Dtype dtype);

}  // namespace tallystick
