// Squared distances between clients, for rules that compare updates with one another. Rows as in aggregate.h.
//
// D_ij = sum over columns of (x_i - x_j)^2, the direct form: one finite attacker at 1e5 sigma destroys honest
// distances in a Gram of raw or of centred values. The shape of the sum is fixed, so threads, chunks, pieces
// and CPU levels change no bit:
//   block       512 columns, the last one filled with zeros. t = x - y in float32 (float64 data: float64),
//               16 lanes, lane l sums columns l, l + 16, ... by fma(t, t, lane) from 0
//   lanes       lane l += lane l + 8, then + 4, + 2, + 1, in the same format
//   superblock  2^18 columns: its blocks added in order, in float64, to part; then part is added to total
// Overflow gives +infinity, never NaN. The diagonal is 0.
#pragma once
#include "aggregate.h"

namespace tallystick {

constexpr std::size_t kDistanceBlock = 512, kSuperblock = std::size_t{1} << 18, kChunkUnit = 4096;

// Adds columns column .. column + rows.d() of the whole to part and total (n x n, symmetric, zero before the
// first chunk). Chunks come in order; column, and so every chunk's length but the last one's, is a multiple
// of kChunkUnit, else std::invalid_argument. Returns the clients with a NaN or infinity in this chunk;
// distances between the others stay valid.
Clients distances(const Rows& rows, std::size_t column, double* part, double* total);

// After the last chunk: total += part, part = 0.
void distances_finish(std::size_t n, double* part, double* total);

}  // namespace tallystick
