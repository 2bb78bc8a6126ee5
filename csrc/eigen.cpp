#include "eigen.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace tallystick {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
using Doubles = std::vector<double>;

// Householder vectors are left below the diagonal of a (row k + 1 on, column k), their factors in beta.
void tridiagonalise(double* a, std::size_t n, double* diagonal, double* off, double* beta) {
    Doubles v(n), p(n);
    for (std::size_t k = 0; k + 1 < n; ++k) {
        const std::size_t m = n - k - 1;  // length of the column below the diagonal
        for (std::size_t i = 0; i < m; ++i) v[i] = a[(k + 1 + i) * n + k];
        const double norm = std::sqrt(dot(v.data(), v.data(), m));
        const double alpha = v[0] > 0 ? -norm : norm;
        off[k] = alpha;
        v[0] -= alpha;
        const double squared = dot(v.data(), v.data(), m);
        beta[k] = squared > 0 && m > 1 ? 2 / squared : 0;
        if (beta[k] == 0) {
            off[k] = a[(k + 1) * n + k];
            continue;
        }
        for (std::size_t i = 0; i < m; ++i) p[i] = beta[k] * dot(&a[(k + 1 + i) * n + k + 1], v.data(), m);
        const double half = beta[k] / 2 * dot(p.data(), v.data(), m);
        for (std::size_t i = 0; i < m; ++i) p[i] -= half * v[i];
        for (std::size_t i = 0; i < m; ++i) {
            double* row = &a[(k + 1 + i) * n + k + 1];
            const double vi = v[i], pi = p[i];
            for (std::size_t j = 0; j < m; ++j) row[j] -= vi * p[j] + pi * v[j];
        }
        for (std::size_t i = 0; i < m; ++i) a[(k + 1 + i) * n + k] = v[i];
    }
    for (std::size_t i = 0; i < n; ++i) diagonal[i] = a[i * n + i];
}

// Whether every eigenvalue of the tridiagonal matrix is below x (Sturm).
bool all_below(const double* d, const double* e, std::size_t n, double x) {
    double q = d[0] - x;
    for (std::size_t i = 1; q < 0 && i < n; ++i) q = d[i] - x - e[i - 1] * e[i - 1] / q;
    return q < 0;
}

double largest_eigenvalue(const double* d, const double* e, std::size_t n) {
    double low = -kInfinity, high = -kInfinity, reach = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const double radius = (i ? std::fabs(e[i - 1]) : 0) + (i + 1 < n ? std::fabs(e[i]) : 0);
        low = std::max(low, d[i]);
        high = std::max(high, d[i] + radius);
        reach = std::max(reach, std::fabs(d[i]) + radius);
    }
    while (high - low > 0x1p-53 * reach) {
        const double middle = low + (high - low) / 2;
        if (middle <= low || middle >= high) break;
        (all_below(d, e, n, middle) ? high : low) = middle;
    }
    return high;
}

// Solves (T - value) y = b in place, rows exchanged for the larger pivot; a pivot of 0 becomes tiny.
void solve_shifted(const double* d, const double* e, std::size_t n, double value, double tiny, double* b) {
    Doubles u0(n), u1(n), u2(n);  // rows of the upper triangle, which exchanges make three wide
    double a0 = d[0] - value, a1 = n > 1 ? e[0] : 0;
    for (std::size_t i = 0; i + 1 < n; ++i) {
        const double below0 = e[i], below1 = d[i + 1] - value, below2 = i + 2 < n ? e[i + 1] : 0;
        if (std::fabs(a0) >= std::fabs(below0)) {
            if (a0 == 0) a0 = tiny;
            const double factor = below0 / a0;
            u0[i] = a0, u1[i] = a1, u2[i] = 0;
            a0 = below1 - factor * a1, a1 = below2;
            b[i + 1] -= factor * b[i];
        } else {
            const double factor = a0 / below0;
            u0[i] = below0, u1[i] = below1, u2[i] = below2;
            a0 = a1 - factor * below1, a1 = -factor * below2;
            const double upper = b[i];
            b[i] = b[i + 1];
            b[i + 1] = upper - factor * b[i];
        }
    }
    u0[n - 1] = std::fabs(a0) < tiny ? tiny : a0;
    for (std::size_t i = n; i-- > 0;) {
        double y = b[i];
        if (i + 1 < n) y -= u1[i] * b[i + 1];
        if (i + 2 < n) y -= u2[i] * b[i + 2];
        b[i] = y / u0[i];
    }
}

void normalise(double* v, std::size_t n) {
    double largest = 0;
    for (std::size_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(v[i]));
    if (largest == 0) return;
    for (std::size_t i = 0; i < n; ++i) v[i] /= largest;
    const double norm = std::sqrt(dot(v, v, n));
    for (std::size_t i = 0; i < n; ++i) v[i] /= norm;
}

// The power of two that brings the largest entry into [1/2, 1), or 0 for a matrix of zeros.
double unit(const double* a, std::size_t size) {
    double largest = 0;
    for (std::size_t i = 0; i < size; ++i) largest = std::max(largest, std::fabs(a[i]));
    if (largest == 0) return 0;
    int e;
    std::frexp(largest, &e);
    return std::ldexp(1.0, -e);
}

}  // namespace

double dot(const double* a, const double* b, std::size_t n) {
    double s[8] = {};
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (std::size_t l = 0; l < 8; ++l) s[l] += a[i + l] * b[i + l];
    for (; i < n; ++i) s[i % 8] += a[i] * b[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

double top_eigenpair(double* matrix, std::size_t n, double* vector) {
    std::fill(vector, vector + n, 0.0);
    vector[0] = 1;
    const double scale = unit(matrix, n * n);
    if (scale == 0) return 0;
    for (std::size_t i = 0; i < n * n; ++i) matrix[i] *= scale;
    if (n == 1) return matrix[0] / scale;
    Doubles d(n), e(n), beta(n);
    tridiagonalise(matrix, n, d.data(), e.data(), beta.data());
    const double value = largest_eigenvalue(d.data(), e.data(), n);
    std::uint32_t state = 1;
    for (std::size_t i = 0; i < n; ++i) {  // no eigenvector is at right angles to it, but by chance
        state = state * 1664525u + 1013904223u;
        vector[i] = 0.5 + static_cast<double>(state >> 8) * 0x1p-25;
    }
    for (int pass = 0; pass < 3; ++pass) {
        solve_shifted(d.data(), e.data(), n, value, 0x1p-52 * static_cast<double>(n), vector);
        normalise(vector, n);
    }
    for (std::size_t k = n - 1; k-- > 0;) {  // back through the reflections
        double s = 0;
        for (std::size_t i = k + 1; i < n; ++i) s += matrix[i * n + k] * vector[i];
        s *= beta[k];
        if (beta[k] != 0)
            for (std::size_t i = k + 1; i < n; ++i) vector[i] -= s * matrix[i * n + k];
    }
    std::size_t largest = 0;
    for (std::size_t i = 1; i < n; ++i)
        if (std::fabs(vector[i]) > std::fabs(vector[largest])) largest = i;
    if (vector[largest] < 0)
        for (std::size_t i = 0; i < n; ++i) vector[i] = -vector[i];
    return value / scale;
}

}  // namespace tallystick
