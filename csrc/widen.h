// Values of any format as doubles. Included once per CPU level, in its region, after lanes.h.
namespace LEVEL {

// As many values of binary16, of bfloat16 as a vector holds doubles.
TALLYSTICK_HD HalfFloatVec widen_some_halves(const void* p) {
#if LEVEL_BYTES == 64
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
#elif LEVEL_BYTES == 32
    return _mm_cvtph_ps(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
#else
    Half h[2];
    __builtin_memcpy(h, p, sizeof h);
    return HalfFloatVec{widen(h[0]), widen(h[1])};
#endif
}

TALLYSTICK_HD HalfFloatVec widen_some_brains(const void* p) {
#if LEVEL_BYTES == 64
    const auto words = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
#elif LEVEL_BYTES == 32
    const auto words = _mm_cvtepu16_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
    return _mm_castsi128_ps(_mm_slli_epi32(words, 16));
#else
    Brain b[2];
    __builtin_memcpy(b, p, sizeof b);
    return HalfFloatVec{widen(b[0]), widen(b[1])};
#endif
}

// As many values at p as a vector holds doubles, widened. Halves of a register that are loaded apart cost
// less than taking a register apart.
template <class In>
TALLYSTICK_HD DoubleVec load_widened(const char* p) {
    if constexpr (__is_same(In, double)) {
        return load<DoubleVec>(p);
    } else if constexpr (__is_same(In, float)) {
        return to_double(load<HalfFloatVec>(p));
    } else if constexpr (__is_same(In, Brain)) {
        return to_double(widen_some_brains(p));
    } else {
        return to_double(widen_some_halves(p));
    }
}

}  // namespace LEVEL
