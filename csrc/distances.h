// What rules need of clients' updates beside the values: squared distances between them, inner products,
// squared norms. Rows as in aggregate.h.
//
// D_ij = sum over columns of (x_i - x_j)^2, the direct form: one finite attacker at 1e5 sigma destroys honest
// distances in a Gram of raw or of centred values. G_ij = sum of x_i x_j, in float64 whatever the format:
// products of narrower values are exact there, and the square of no float32 leaves its range, so that angles
// and norms do not depend on lengths. The shape of the sum is fixed, so threads, chunks, pieces and CPU
// levels change no bit:
//   block       512 columns, the last one filled with zeros. 16 lanes, lane l sums columns l, l + 16, ...
//   from
//               0: by fma(t, t, lane), t = x - y in float32 (float64 data: float64); products by
//               fma(x, y, lane) in float64
//   lanes       lane l += lane l + 8, then + 4, + 2, + 1, in the same format
//   superblock  2^18 columns: its blocks added in order, in float64, to part; then part is added to total
// Overflow gives +infinity (products: +-infinity or NaN, of float64 data alone). The diagonal of D is 0, that
// of G holds the squared norms.
#pragma once
#include "aggregate.h"

namespace tallystick {

constexpr std::size_t kDistanceBlock = 512, kSuperblock = std::size_t{1} << 18, kChunkUnit = 4096;

// All of these add columns column .. column + rows.d() of the whole to part and total (zero before the first
// chunk). Chunks come in order; column, and so every chunk's length but the last one's, is a multiple of
// kChunkUnit, else std::invalid_argument. They return the clients with a NaN or infinity in this chunk;
// values that involve only others stay valid. A value has the same bits whichever of them made it.

// n x n, symmetric: D, G.
Clients distances(const Rows& rows, std::size_t column, double* part, double* total);
Clients products(const Rows& rows, std::size_t column, double* part, double* total);

// n squared norms; one row of D; 2 x n: squared norms, then a row of G. One read of the updates. row < n.
Clients norms(const Rows& rows, std::size_t column, double* part, double* total);
Clients distances_to(const Rows& rows, std::size_t row, std::size_t column, double* part, double* total);
Clients products_with(const Rows& rows, std::size_t row, std::size_t column, double* part, double* total);

// After the last chunk, for `count` values of either: total += part, part = 0.
void distances_finish(std::size_t count, double* part, double* total);

}  // namespace tallystick
