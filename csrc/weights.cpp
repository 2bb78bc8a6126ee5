#include "weights.h"

#include <algorithm>
#include <cmath>  // for frexp, ldexp

namespace tallystick {

MeanArguments mean_arguments(const double* weights, std::size_t n, bool float64,
                             std::vector<double>& scaled) {
    MeanArguments a{};
    LongSum total;
    double smallest = 1;
    if (weights) {
        int exponent = 0;
        std::frexp(*std::max_element(weights, weights + n), &exponent);
        for (std::size_t i = 0; i < n; ++i) scaled.push_back(std::ldexp(weights[i], 1 - exponent));
        smallest = *std::min_element(scaled.begin(), scaled.end());
        a.weights = scaled.data();
        for (const double w : scaled) add(total, w);
        // Equal weights are no weights: cheaper, and exact more often.
        if (smallest == *std::max_element(scaled.begin(), scaled.end())) a.weights = nullptr;
    }
    if (!a.weights) total = LongSum{static_cast<double>(n), 0, 0};
    const TwoSum sum = two_sum(total.high, total.low);
    const double count = static_cast<double>(n);
    a.scale.total = sum.sum;
    a.scale.total_low = sum.error;
    a.scale.total_error = total.lost * (1 + 0x1p-20);
    a.scale.inverse = 1 / sum.sum;
    a.scale.step = (count + 8) * 0x1p-53;
    a.scale.step_dd = (count + 4) * (count + 4) * 0x1p-106;
    a.scale.inexact = a.weights && (float64 || smallest < 0x1p-700) ? 0x1p-120 : 0;
    return a;
}

}  // namespace tallystick
