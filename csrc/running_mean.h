// Weighted mean of updates that come one after another, in memory that does not grow with their number.
//
// Per column the exact sum is high + low, up to lost (exact.h, tier 2): 24 bytes. finish() rounds
// correctly wherever that determines the answer, and counts the columns where it does not (it takes sums
// whose bits spread over more than 106 binary places and that end next to a midpoint of the format).
#pragma once
#include <cstddef>

#include "aggregate.h"

namespace tallystick {

// Accumulators of d columns, zero to begin with.
struct RunningSums {
    double *high, *low, *lost;
};

// Adds weight * x. rows: one client, in CPU memory; weight in [2^-500, 2^500].
// False, and the accumulators unspecified, if a value is NaN or infinite (ask nonfinite() first).
bool running_mean_add(const Rows& rows, double weight, const RunningSums& sums);

// out[j] = the mean; weights: those of all n clients added, n >= 1. Returns the number of columns that are
// not certain to be rounded correctly (they are within one step of the format).
std::size_t running_mean_finish(const RunningSums& sums, std::size_t d, const double* weights, std::size_t n,
                                Dtype dtype, void* out);

}  // namespace tallystick
