// The one eigenpair that rules need, in scalar float64 and a fixed order: the same bits on every machine.
#pragma once
#include <cstddef>

namespace tallystick {

// Largest eigenvalue and its eigenvector (norm 1, largest component positive) of a symmetric n x n matrix,
// which is overwritten: Householder tridiagonalisation, bisection, inverse iteration; 4/3 n^3 operations.
double top_eigenpair(double* matrix, std::size_t n, double* vector);

// Inner product: eight sums, then their sum, an order that the compiler may still put into registers.
double dot(const double* a, const double* b, std::size_t n);

}  // namespace tallystick
