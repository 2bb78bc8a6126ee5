// Aggregation of n clients' updates of d parameters, coordinate by coordinate; distances are in distances.h.
//
//   Rows    n >= 1 clients; client i's columns bounds[k] .. bounds[k + 1] stand at pointers[i * pieces + k],
//           at any byte address, in `dtype`, finite or not; bounds start at 0 and grow strictly (d = 0: any)
//   out     d contiguous values of the same dtype, at any byte address, no overlap with the rows
//   result  the clients with a NaN or infinity in any column, ascending; if there are any, out is unspecified
//   order   clients, pieces, threads and CPU levels in any order or number give the same bits:
//           sums are correctly rounded (exact.h), selections exact; a zero result is +0
//   memory  O(threads * n * tile)
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "dtype.h"

namespace tallystick {

struct Rows {
    const std::uint64_t* pointers;
    const std::int64_t* bounds;
    std::size_t n, pieces;
    Dtype dtype;

    std::size_t d() const { return static_cast<std::size_t>(bounds[pieces]); }
};
using Clients = std::vector<std::size_t>;

// out[j] = sum(w_i x_ij) / sum(w_i).  weights: n positive values in [2^-500, 2^500], or null for all 1.
Clients mean(const Rows& rows, const double* weights, void* out);

// out[j] = the middle of x_0j .. x_(n-1)j; of an even n: their mean, the lower or the upper of the two.
enum class Middle { mid, lower, upper };
Clients median(const Rows& rows, Middle middle, void* out);

// out[j] = mean of x_0j .. x_(n-1)j without the f smallest and the f largest; 2f < n.
// Source: Yin et al., ICML 2018 (their beta is f / n).
Clients trimmed_mean(const Rows& rows, std::size_t f, void* out);

// out[j] = mean of the n - f values nearest to a center: the median (mid) of x_0j .. x_(n-1)j, or their mean
// without the f smallest and f largest, rounded to the format. Of two values equally near, the smaller is
// kept.  meamed: f < n; phocas: 2f < n. Source: Xie, Koyejo, Gupta, arXiv 1802.10116 (mean around median) and
// 1805.09682 (Phocas).
Clients meamed(const Rows& rows, std::size_t f, void* out);
Clients phocas(const Rows& rows, std::size_t f, void* out);

// out[j] = 1, -1 or 0: whether more of x_0j .. x_(n-1)j are positive or negative.
// Source: Bernstein et al., ICLR 2019 (signSGD with majority vote).
Clients majority(const Rows& rows, void* out);

// Only the clients with a NaN or infinity.
Clients nonfinite(const Rows& rows);

// Columns that mean and trimmed_mean have redone so far, for tests and for whoever watches speed:
// in TwoSum arithmetic, and of those in integers.
struct Redone {
    std::uint64_t second, third;
};
Redone redone();

// Sum of 4-byte floats, at the speed at which this level reads memory: the yardstick of the benchmarks.
float stream_read(const float* x, std::size_t size);

}  // namespace tallystick
