// Rules that look at one column at a time, as kernels for whoever has rows in memory. Internal to csrc/.
#pragma once
#include <functional>

#include "aggregate.h"

namespace tallystick {

// rows: n addresses of the first of `columns` values, a multiple of 64; out: room for as many. False if a
// value was NaN or infinite: out is unspecified there. One thread's own; make one per thread.
using ColumnKernel = std::function<bool(const char* const* rows, std::size_t columns, char* out)>;
using MakeColumnKernel = std::function<ColumnKernel()>;

// The rules of aggregate.h on n rows; f within their bounds, and above 0.
MakeColumnKernel median_kernel(std::size_t n, Dtype dtype, Middle middle);
MakeColumnKernel trimmed_mean_kernel(std::size_t n, Dtype dtype, std::size_t f);
MakeColumnKernel meamed_kernel(std::size_t n, Dtype dtype, std::size_t f);
MakeColumnKernel phocas_kernel(std::size_t n, Dtype dtype, std::size_t f);
MakeColumnKernel majority_kernel(std::size_t n, Dtype dtype);

// Runs a kernel over all columns, in threads.
Clients run_columns(const Rows& rows, void* out, const MakeColumnKernel& make_kernel);

}  // namespace tallystick
