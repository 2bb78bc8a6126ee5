// Vectors of the width of one CPU level, on GCC's vector extensions. Included once per level, in its region,
// with LEVEL and LEVEL_BYTES (16, 32 or 64) defined. Intrinsics only where an operator does not exist.
namespace LEVEL {

using tallystick::fused;
using tallystick::magnitude;

constexpr std::size_t kBytes = LEVEL_BYTES;
constexpr std::size_t kFloats = kBytes / 4, kDoubles = kBytes / 8;

typedef float FloatVec __attribute__((vector_size(LEVEL_BYTES)));
typedef double DoubleVec __attribute__((vector_size(LEVEL_BYTES)));
typedef std::uint32_t WordVec __attribute__((vector_size(LEVEL_BYTES)));
typedef std::uint64_t LongVec __attribute__((vector_size(LEVEL_BYTES)));
typedef float HalfFloatVec __attribute__((vector_size(LEVEL_BYTES / 2)));
typedef std::uint16_t ShortVec __attribute__((vector_size(LEVEL_BYTES / 2)));

template <class F>
struct Lanes;
template <>
struct Lanes<float> {
    typedef FloatVec Vec;
    typedef WordVec Bits;
    static constexpr std::size_t kCount = kFloats;
};
template <>
struct Lanes<double> {
    typedef DoubleVec Vec;
    typedef LongVec Bits;
    static constexpr std::size_t kCount = kDoubles;
};

// From and to any address.
template <class Vec>
TALLYSTICK_HD Vec load(const void* p) {
    typedef Vec Any __attribute__((aligned(1), may_alias));
    return *static_cast<const Any*>(p);
}
template <class Vec>
TALLYSTICK_HD void store(void* p, Vec v) {
    typedef Vec Any __attribute__((aligned(1), may_alias));
    *static_cast<Any*>(p) = v;
}

// b < a ? b : a and b < a ? a : b.
#if LEVEL_BYTES == 64
TALLYSTICK_HD FloatVec smaller(FloatVec a, FloatVec b) { return _mm512_min_ps(b, a); }
TALLYSTICK_HD FloatVec larger(FloatVec a, FloatVec b) { return _mm512_max_ps(a, b); }
TALLYSTICK_HD DoubleVec smaller(DoubleVec a, DoubleVec b) { return _mm512_min_pd(b, a); }
TALLYSTICK_HD DoubleVec larger(DoubleVec a, DoubleVec b) { return _mm512_max_pd(a, b); }
TALLYSTICK_HD WordVec smaller(WordVec a, WordVec b) {
    return reinterpret_cast<WordVec>(
        _mm512_min_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
TALLYSTICK_HD WordVec larger(WordVec a, WordVec b) {
    return reinterpret_cast<WordVec>(
        _mm512_max_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
TALLYSTICK_HD FloatVec fused(FloatVec a, FloatVec b, FloatVec c) { return _mm512_fmadd_ps(a, b, c); }
TALLYSTICK_HD DoubleVec fused(DoubleVec a, DoubleVec b, DoubleVec c) { return _mm512_fmadd_pd(a, b, c); }
TALLYSTICK_HD FloatVec widen_halves(const void* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
TALLYSTICK_HD HalfFloatVec first_half(FloatVec v) { return _mm512_castps512_ps256(v); }
TALLYSTICK_HD HalfFloatVec second_half(FloatVec v) { return _mm512_extractf32x8_ps(v, 1); }
TALLYSTICK_HD DoubleVec to_double(HalfFloatVec v) { return _mm512_cvtps_pd(v); }
TALLYSTICK_HD HalfFloatVec to_float(DoubleVec v) { return _mm512_cvtpd_ps(v); }
TALLYSTICK_HD FloatVec join(HalfFloatVec a, HalfFloatVec b) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1);
}
TALLYSTICK_HD std::uint64_t unequal(FloatVec a, FloatVec b) {  // bit j: lane j
    return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ);
}
#elif LEVEL_BYTES == 32
TALLYSTICK_HD FloatVec smaller(FloatVec a, FloatVec b) { return _mm256_min_ps(b, a); }
TALLYSTICK_HD FloatVec larger(FloatVec a, FloatVec b) { return _mm256_max_ps(a, b); }
TALLYSTICK_HD DoubleVec smaller(DoubleVec a, DoubleVec b) { return _mm256_min_pd(b, a); }
TALLYSTICK_HD DoubleVec larger(DoubleVec a, DoubleVec b) { return _mm256_max_pd(a, b); }
TALLYSTICK_HD WordVec smaller(WordVec a, WordVec b) {
    return reinterpret_cast<WordVec>(
        _mm256_min_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
TALLYSTICK_HD WordVec larger(WordVec a, WordVec b) {
    return reinterpret_cast<WordVec>(
        _mm256_max_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
TALLYSTICK_HD FloatVec fused(FloatVec a, FloatVec b, FloatVec c) { return _mm256_fmadd_ps(a, b, c); }
TALLYSTICK_HD DoubleVec fused(DoubleVec a, DoubleVec b, DoubleVec c) { return _mm256_fmadd_pd(a, b, c); }
TALLYSTICK_HD FloatVec widen_halves(const void* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
TALLYSTICK_HD HalfFloatVec first_half(FloatVec v) { return _mm256_castps256_ps128(v); }
TALLYSTICK_HD HalfFloatVec second_half(FloatVec v) { return _mm256_extractf128_ps(v, 1); }
TALLYSTICK_HD DoubleVec to_double(HalfFloatVec v) { return _mm256_cvtps_pd(v); }
TALLYSTICK_HD HalfFloatVec to_float(DoubleVec v) { return _mm256_cvtpd_ps(v); }
TALLYSTICK_HD FloatVec join(HalfFloatVec a, HalfFloatVec b) { return _mm256_set_m128(b, a); }
TALLYSTICK_HD std::uint64_t unequal(FloatVec a, FloatVec b) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ)));
}
#else
TALLYSTICK_HD FloatVec smaller(FloatVec a, FloatVec b) { return b < a ? b : a; }
TALLYSTICK_HD FloatVec larger(FloatVec a, FloatVec b) { return b < a ? a : b; }
TALLYSTICK_HD DoubleVec smaller(DoubleVec a, DoubleVec b) { return b < a ? b : a; }
TALLYSTICK_HD DoubleVec larger(DoubleVec a, DoubleVec b) { return b < a ? a : b; }
TALLYSTICK_HD WordVec smaller(WordVec a, WordVec b) { return b < a ? b : a; }
TALLYSTICK_HD WordVec larger(WordVec a, WordVec b) { return b < a ? a : b; }
// The same bits as an FMA unit, without one: the product of floats is exact in double, the sum is cut "to
// odd" there, and rounding that to float is rounding the exact value. Infinities pass through.
TALLYSTICK_HD float fused(float a, float b, float c) {
    const TwoSum s = two_sum(static_cast<double>(a) * static_cast<double>(b), static_cast<double>(c));
    const std::uint64_t bits = bits_of(s.sum);
    const bool away = (s.error > 0) == (s.sum > 0);
    const bool nudge = (s.error > 0 || s.error < 0) && (bits & 1) == 0;
    return static_cast<float>(double_of(nudge ? (away ? bits + 1 : bits - 1) : bits));
}
TALLYSTICK_HD FloatVec fused(FloatVec a, FloatVec b, FloatVec c) {
    return FloatVec{fused(a[0], b[0], c[0]), fused(a[1], b[1], c[1]), fused(a[2], b[2], c[2]),
                    fused(a[3], b[3], c[3])};
}
TALLYSTICK_HD DoubleVec fused(DoubleVec a, DoubleVec b, DoubleVec c) {
    return DoubleVec{__builtin_fma(a[0], b[0], c[0]), __builtin_fma(a[1], b[1], c[1])};
}
TALLYSTICK_HD FloatVec widen_halves(const void* p) {
    Half h[4];
    __builtin_memcpy(h, p, sizeof h);
    return FloatVec{widen(h[0]), widen(h[1]), widen(h[2]), widen(h[3])};
}
TALLYSTICK_HD HalfFloatVec first_half(FloatVec v) { return HalfFloatVec{v[0], v[1]}; }
TALLYSTICK_HD HalfFloatVec second_half(FloatVec v) { return HalfFloatVec{v[2], v[3]}; }
TALLYSTICK_HD DoubleVec to_double(HalfFloatVec v) { return __builtin_convertvector(v, DoubleVec); }
TALLYSTICK_HD HalfFloatVec to_float(DoubleVec v) { return __builtin_convertvector(v, HalfFloatVec); }
TALLYSTICK_HD FloatVec join(HalfFloatVec a, HalfFloatVec b) { return FloatVec{a[0], a[1], b[0], b[1]}; }
TALLYSTICK_HD std::uint64_t unequal(FloatVec a, FloatVec b) {
    std::uint64_t bits = 0;
    for (std::size_t j = 0; j < kFloats; ++j) bits |= std::uint64_t{a[j] != b[j]} << j;
    return bits;
}
#endif

// The register's worth of values of type T that starts at p.
template <class T>
struct Load {
    typedef FloatVec Vec;
    static TALLYSTICK_HD FloatVec from(const void* p) {
        if constexpr (sizeof(T) == 4) {
            return load<FloatVec>(p);
        } else if constexpr (__is_same(T, Brain)) {
            return reinterpret_cast<FloatVec>(__builtin_convertvector(load<ShortVec>(p), WordVec) << 16);
        } else {
            return widen_halves(p);
        }
    }
};
template <>
struct Load<double> {
    typedef DoubleVec Vec;
    static TALLYSTICK_HD DoubleVec from(const void* p) { return load<DoubleVec>(p); }
};

TALLYSTICK_HD FloatVec magnitude(FloatVec v) {
    return reinterpret_cast<FloatVec>(reinterpret_cast<WordVec>(v) & 0x7fffffffu);
}
TALLYSTICK_HD DoubleVec magnitude(DoubleVec v) {
    return reinterpret_cast<DoubleVec>(reinterpret_cast<LongVec>(v) & ~(std::uint64_t{1} << 63));
}
TALLYSTICK_HD DoubleVec splat(double x) { return x - DoubleVec{}; }

// Whether any lane is not 0.
TALLYSTICK_HD bool any(WordVec v) {
#if LEVEL_BYTES == 64
    return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(v), reinterpret_cast<__m512i>(v)) != 0;
#elif LEVEL_BYTES == 32
    return !_mm256_testz_si256(reinterpret_cast<__m256i>(v), reinterpret_cast<__m256i>(v));
#else
    const LongVec halves = reinterpret_cast<LongVec>(v);
    return (halves[0] | halves[1]) != 0;
#endif
}

// To the 24 bits of a float "to odd" (rounding.h), for values that are not denormal there.
TALLYSTICK_HD DoubleVec to_odd(DoubleVec x) {
    const LongVec bits = reinterpret_cast<LongVec>(x);
    const LongVec cut = LongVec{} + 0x1fffffffu;
    return reinterpret_cast<DoubleVec>((bits | ((bits & cut) + cut)) & ~cut);
}

// To Half or Brain: to nearest, ties to even, a zero is +0.
template <class T>
TALLYSTICK_HD ShortVec narrow_short(FloatVec x) {
    ShortVec r;
    if constexpr (__is_same(T, Brain)) {
        const WordVec bits = reinterpret_cast<WordVec>(x);
        r = __builtin_convertvector((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, ShortVec);
    } else {
#if LEVEL_BYTES == 64
        r = reinterpret_cast<ShortVec>(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif LEVEL_BYTES == 32
        r = reinterpret_cast<ShortVec>(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
        for (std::size_t j = 0; j < kFloats; ++j) r[j] = narrow<Half>(static_cast<double>(x[j])).bits;
#endif
    }
    return (r & std::uint16_t{0x7fff}) == 0 ? ShortVec{} : r;
}
TALLYSTICK_HD std::uint64_t unequal(ShortVec a, ShortVec b) {
#if LEVEL_BYTES == 64
    return _mm256_cmpneq_epi16_mask(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b));
#else
    std::uint64_t bits = 0;
    for (std::size_t j = 0; j < kFloats; ++j) bits |= std::uint64_t{a[j] != b[j]} << j;
    return bits;
#endif
}

// Collects x - x of what was read: 0 for finite values, else NaN.
template <class F>
struct FiniteCheck {
    typename Lanes<F>::Bits bits = {};
    TALLYSTICK_HD void see(typename Lanes<F>::Vec v) {
        bits |= reinterpret_cast<typename Lanes<F>::Bits>(v - v);
    }
    TALLYSTICK_HD bool finite() const {
        bool all = true;
        for (std::size_t j = 0; j < Lanes<F>::kCount; ++j) all = all && bits[j] == 0;
        return all;
    }
};

// The correctly rounded mean of two float values (exact.h, middle_of): halving is exact unless the result is
// denormal, and then the sum was; where the sum overflows, both halves are exact.
TALLYSTICK_HD FloatVec middle_of_floats(FloatVec a, FloatVec b) {
    const FloatVec sum = a + b;
    const FloatVec halves = a * 0.5f + b * 0.5f;
    return (sum - sum == 0 ? sum * 0.5f : halves) + 0.0f;
}

}  // namespace LEVEL
