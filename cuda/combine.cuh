// The function of csrc/combine.h for rows in device memory, with the conventions of aggregate.cuh.
#pragma once
#include "aggregate.cuh"

namespace tallystick::cuda {

Clients combine(const Rows& rows, const double* weights, void* out, Stream stream);

}  // namespace tallystick::cuda
