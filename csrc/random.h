// Counter-based random numbers: word j depends on (seed, stream, j) alone, so any part of a sequence can be
// made by anybody, in any order.
//
//   words    Philox4x32-10 (Salmon et al., SC 2011), key = seed, counter = (j / 2, stream): two words of 64
//   bits normals  inverse of the normal distribution (Wichura, AS 241, 1988, PPND16: 16 digits) at (k + 1/2)
//   / 2^53,
//            k the upper 53 bits of word j; the logarithm is our own, as libm's differ in the last bit
#pragma once
#include <cmath>
#include <cstdint>

namespace tallystick {

struct Words {
    std::uint64_t first, second;
};

inline Words philox(std::uint64_t seed, std::uint64_t counter, std::uint64_t stream) {
    auto key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    std::uint32_t c[4] = {static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
                          static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)};
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t a = std::uint64_t{0xD2511F53} * c[0], b = std::uint64_t{0xCD9E8D57} * c[2];
        const std::uint32_t c0 = static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ key0;
        const std::uint32_t c2 = static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ key1;
        c[0] = c0, c[1] = static_cast<std::uint32_t>(b), c[2] = c2, c[3] = static_cast<std::uint32_t>(a);
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
    return {c[0] | std::uint64_t{c[1]} << 32, c[2] | std::uint64_t{c[3]} << 32};
}

inline std::uint64_t random_word(std::uint64_t seed, std::uint64_t stream, std::uint64_t j) {
    const Words w = philox(seed, j / 2, stream);
    return j % 2 ? w.second : w.first;
}

// ln x, x > 0 and normal: 2 atanh((m - 1) / (m + 1)) + e ln 2 with m in [sqrt 1/2, sqrt 2), to a few 1e-16.
inline double own_log(double x) {
    int e;
    double m = std::frexp(x, &e);
    if (m < 0.70710678118654752) m *= 2, --e;
    const double s = (m - 1) / (m + 1), q = s * s;  // q < 0.0295: the term of q^12 is below 1e-19
    double sum = 0;
    for (int k = 12; k >= 0; --k) sum = sum * q + 1.0 / (2 * k + 1);
    return 2 * s * sum + e * 0.69314718055994530942;
}

inline double ratio(const double (&top)[8], const double (&bottom)[8], double r) {
    double a = top[7], b = bottom[7];
    for (int k = 6; k >= 0; --k) a = a * r + top[k], b = b * r + bottom[k];
    return a / b;
}

// The standard normal value that word stands for.
inline double normal(std::uint64_t word) {
    constexpr double kA[8] = {3.3871328727963666080e0,  1.3314166789178437745e+2, 1.9715909503065514427e+3,
                              1.3731693765509461125e+4, 4.5921953931549871457e+4, 6.7265770927008700853e+4,
                              3.3430575583588128105e+4, 2.5090809287301226727e+3};
    constexpr double kB[8] = {1.0,
                              4.2313330701600911252e+1,
                              6.8718700749205790830e+2,
                              5.3941960214247511077e+3,
                              2.1213794301586595867e+4,
                              3.9307895800092710610e+4,
                              2.8729085735721942674e+4,
                              5.2264952788528545610e+3};
    constexpr double kC[8] = {1.42343711074968357734e0,  4.63033784615654529590e0, 5.76949722146069140550e0,
                              3.64784832476320460504e0,  1.27045825245236838258e0, 2.41780725177450611770e-1,
                              2.27238449892691845833e-2, 7.74545014278341407640e-4};
    constexpr double kD[8] = {1.0,
                              2.05319162663775882187e0,
                              1.67638483018380384940e0,
                              6.89767334985100004550e-1,
                              1.48103976427480074590e-1,
                              1.51986665636164571966e-2,
                              5.47593808499534494600e-4,
                              1.05075007164441684324e-9};
    constexpr double kE[8] = {6.65790464350110377720e0,  5.46378491116411436990e0,  1.78482653991729133580e0,
                              2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                              2.71155556874348757815e-5, 2.01033439929228813265e-7};
    constexpr double kF[8] = {1.0,
                              5.99832206555887937690e-1,
                              1.36929880922735805310e-1,
                              1.48753612908506148525e-2,
                              7.86869131145613259100e-4,
                              1.84631831751005468180e-5,
                              1.42151175831644588870e-7,
                              2.04426310338993978564e-15};
    const double p = (static_cast<double>(word >> 11) + 0.5) * 0x1p-53, q = p - 0.5;
    if (q >= -0.425 && q <= 0.425) return q * ratio(kA, kB, 0.180625 - q * q);
    const double r = std::sqrt(-own_log(q < 0 ? p : 1 - p));
    const double x = r <= 5 ? ratio(kC, kD, r - 1.6) : ratio(kE, kF, r - 5);
    return q < 0 ? -x : x;
}

}  // namespace tallystick
