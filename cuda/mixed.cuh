// The function of csrc/mixed.h for rows in device memory, with the conventions of aggregate.cuh.
#pragma once
#include "aggregate.cuh"
#include "mixed.h"

namespace tallystick::cuda {

// matrix: host memory.
Clients mixed(const Rows& rows, const Matrix& matrix, const ColumnRule& rule, void* out, Stream stream);

}  // namespace tallystick::cuda
