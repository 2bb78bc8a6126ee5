// SHA-NI: one stream, or several interleaved, which hides the latency of sha256rnds2.  Included by sha256.cpp
// below <immintrin.h>; legacy SSE encoding only, so that no dirty upper halves meet the SHA instructions.
#define SHA_NI __attribute__((target("sha,sse4.1")))
#define SHA_NI_INLINE SHA_NI __attribute__((always_inline)) inline
namespace ni {

// Rounds 4 i .. 4 i + 3; m holds the last 16 words of the message schedule.
SHA_NI_INLINE void rounds(int i, __m128i& abef, __m128i& cdgh, __m128i* m) {
    const __m128i* k = reinterpret_cast<const __m128i*>(kRound);
    const __m128i wk = _mm_add_epi32(m[i & 3], _mm_load_si128(k + i));
    cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
    abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0E));
    if (i < 12) {
        const __m128i seven = _mm_alignr_epi8(m[(i + 3) & 3], m[(i + 2) & 3], 4);
        const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(m[i & 3], m[(i + 1) & 3]), seven);
        m[i & 3] = _mm_sha256msg2_epu32(sum, m[(i + 3) & 3]);
    }
}

// state[w * kStreams + q]: word w of the stream that starts at p[q].
template <int kStreams>
SHA_NI void blocks(std::uint32_t* state, const std::uint8_t* const* p, std::size_t count) {
    const __m128i swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    __m128i abef[kStreams], cdgh[kStreams];
    for (int q = 0; q < kStreams; ++q) {
        const auto word = [&](int w) { return static_cast<int>(state[w * kStreams + q]); };
        abef[q] = _mm_set_epi32(word(0), word(1), word(4), word(5));
        cdgh[q] = _mm_set_epi32(word(2), word(3), word(6), word(7));
    }
    for (std::size_t offset = 0; offset < 64 * count; offset += 64) {
        __m128i m[kStreams][4], first[kStreams], second[kStreams];
        for (int q = 0; q < kStreams; ++q) {
            const __m128i* block = reinterpret_cast<const __m128i*>(p[q] + offset);
            for (int i = 0; i < 4; ++i) m[q][i] = _mm_shuffle_epi8(_mm_loadu_si128(block + i), swap);
            first[q] = abef[q], second[q] = cdgh[q];
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i)
#pragma GCC unroll 4
            for (int q = 0; q < kStreams; ++q) rounds(i, abef[q], cdgh[q], m[q]);
        for (int q = 0; q < kStreams; ++q) {
            abef[q] = _mm_add_epi32(abef[q], first[q]);
            cdgh[q] = _mm_add_epi32(cdgh[q], second[q]);
        }
    }
    for (int q = 0; q < kStreams; ++q) {
        alignas(16) std::uint32_t x[8];
        _mm_store_si128(reinterpret_cast<__m128i*>(x), abef[q]);
        _mm_store_si128(reinterpret_cast<__m128i*>(x + 4), cdgh[q]);
        const std::uint32_t words[8] = {x[3], x[2], x[7], x[6], x[1], x[0], x[5], x[4]};
        for (int w = 0; w < 8; ++w) state[w * kStreams + q] = words[w];
    }
}

}  // namespace ni
#undef SHA_NI
#undef SHA_NI_INLINE
