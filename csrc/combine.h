// Weighted sums over n clients' updates, for rules whose decision is one weight per client. Rows as in
// aggregate.h.
//
// out[j] = sum of w_i x_ij. Not certified as means are: the order is fixed instead, so that threads, pieces
// and CPU levels change no bit:
//   sum     in float64, s = fma(w_i, x_ij, s) from 0, clients in the order given
//   float64 data: in double-double, high + low; p = w_i x_ij, high = high + p by TwoSum, and
//           low += (what that sum lost) + (what p lost); then high + low
//   out     the sum rounded once to the format: an infinity beyond it; a zero result is +0
//   range   where a product or sum of finite values leaves float64: an infinity, +infinity where two met
#pragma once
#include "aggregate.h"

namespace tallystick {

// weights: n finite values of any sign. Returns the clients with a NaN or infinity, weight 0 or not; out is
// unspecified if there are any.
Clients combine(const Rows& rows, const double* weights, void* out);

}  // namespace tallystick
