// What rules decide from n x n squared distances: whom to keep, with which weights. n is small, the data are
// not touched; scalar float64 in a fixed order, no libm beyond sqrt: the same bits on every machine.
//
//   table   n x n squared distances as distances.h gives them: symmetric, zero diagonal, +infinity allowed
//   far     a row at 2^1000 or more from the medoid: no arithmetic with it means anything, it gets weight 0
//   ties    go to the lowest index
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tallystick {

constexpr double kFar = 0x1p+1000;
using Indices = std::vector<std::size_t>;
using Doubles = std::vector<double>;

// The row that is near to most others and, among those, has the least sum of distances to them.
std::size_t medoid(const double* table, std::size_t n);

// out[i, j] = <x_i - x_base, x_j - x_base> = (D_ib + D_jb - D_ij) / 2, zero in far rows; far[i] says which.
// A pair whose norms differ by more than 2^20 gets 0, as float32 distances say nothing about its angle;
// others are held within Cauchy and Schwarz.
void gram(const double* table, std::size_t n, std::size_t base, double* out, bool* far);

// out = a b: (m x k) (k x n).
void product(const double* a, const double* b, std::size_t m, std::size_t k, std::size_t n, double* out);

// Squared distances between y_r = sum_j matrix[r, j] x_j; every row of the m x n matrix sums to 1.
// A row with a share of a far x is at infinity from all that have another share.
void mixed_distances(const double* table, std::size_t n, const double* matrix, std::size_t m, double* out);

// Iterative Bulyan: count times the row with the lowest Krum score (sum of its max(left - f - away, 1)
// smallest distances to rows left) leaves the set. Order of leaving; scores[i]: at that time, else the last
// one.
Indices bulyan(const double* table, std::size_t n, std::size_t f, std::size_t away, std::size_t count,
               double* scores);

// The n - f rows of least diameter, the first such subset in lexicographic order, ascending. Exact: a cover
// of all pairs farther apart than t, t by bisection. std::runtime_error after kSearchSteps steps of the
// search.
constexpr std::uint64_t kSearchSteps = 20'000'000;
Indices mda(const double* table, std::size_t n, std::size_t f);

// Smoothed Weiszfeld iteration: weights of the rows, sum 1. start: row, or n for the mean. shares: alpha, 0
// for rows that are no clients. scores: distances (not squared) to the result. Source: Pillutla, Kakade,
// Harchaoui, IEEE TSP 2022, algorithm 2.
void weiszfeld(const double* table, std::size_t n, std::size_t start, const double* shares, double nu,
               std::size_t iterations, double* weights, double* scores);

// v <- v + sum_i shares_i (x_i - v) min(1, tau / |x_i - v|) from v = row start: weights of the rows, sum 1.
// Source: Karimireddy, He, Jaggi, ICML 2021.
void centered_clipping(const double* table, std::size_t n, std::size_t start, const double* shares,
                       double tau, std::size_t iterations, double* weights, double* scores);

// CAF: weights (sum 1) of rows by repeated down-weighting along the top direction of the weighted covariance.
// g: Gram matrix about any row. Source: Allouah, Guerraoui, Stephan, ICML 2025.
void caf(const double* g, std::size_t n, std::size_t f, double* weights);

// SMEA: the n - f rows whose covariance has the least top eigenvalue, ascending; the first in lexicographic
// order of the subsets within kSmeaTie of it (a share of it), as equal ones differ by rounding. Exact: every
// subset is either evaluated or ruled out by its spread in a subspace.
constexpr double kSmeaTie = 1e-12;
Indices smea(const double* g, std::size_t n, std::size_t f);

// (projection of row i, less the mean row, on the top direction of the rows' covariance)^2.
void principal_scores(const double* g, std::size_t n, double* out);

}  // namespace tallystick
