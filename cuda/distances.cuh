// The functions of csrc/distances.h for rows in device memory: same arguments, same bits. part and total are
// host memory.
#pragma once
#include "aggregate.cuh"

namespace tallystick::cuda {

Clients distances(const Rows& rows, std::size_t column, double* part, double* total, Stream stream);
Clients products(const Rows& rows, std::size_t column, double* part, double* total, Stream stream);
Clients norms(const Rows& rows, std::size_t column, double* part, double* total, Stream stream);
Clients distances_to(const Rows& rows, std::size_t row, std::size_t column, double* part, double* total,
                     Stream stream);
Clients products_with(const Rows& rows, std::size_t row, std::size_t column, double* part, double* total,
                      Stream stream);

}  // namespace tallystick::cuda
