// The column rules of aggregate.h by name, and as kernels for callers that make their rows tile by tile.
#pragma once
#include <functional>
#include <string>

#include "aggregate.h"

namespace tallystick {

struct ColumnRule {
    enum class Kind { median, trimmed_mean } kind;
    Middle middle;  // of a median
    std::size_t f;  // of the others
};

// kernel(rows, columns, out): columns is a multiple of 64; false if a value is not finite. For one thread.
using ColumnKernel = std::function<bool(const char* const*, std::size_t, char*)>;

// Makes such kernels for n rows; std::invalid_argument if f is too large for n.
std::function<ColumnKernel()> column_kernels(const ColumnRule& rule, std::size_t n, Dtype dtype);

}  // namespace tallystick
