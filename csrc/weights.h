// What a call of mean needs to know of its weights, on any device.
#pragma once
#include <cstddef>
#include <vector>

#include "exact.h"

namespace tallystick {

struct MeanArguments {
    const double* weights;  // scaled, or null for all 1
    MeanScale scale;
};

// Weights scaled by a power of two, and what is known of their sum. weights: n values, or null for all 1;
// `scaled` (given empty) owns what the result points to.
MeanArguments mean_arguments(const double* weights, std::size_t n, bool float64, std::vector<double>& scaled);

}  // namespace tallystick
