// SHA-NI: one stream, or several interleaved, which hides the latency of sha256rnds2.  Included by sha256.cpp
// below <immintrin.h>; legacy SSE encoding only, so that no dirty upper halves meet the SHA instructions.
#define SHA_NI __attribute__((target("sha,sse4.1")))
#define SHA_NI_INLINE SHA_NI __attribute__((always_inline)) static inline
namespace ni {

using V = __m128i;

// A hash state as the instructions want it: words a b e f and c d g h, the first one on top.
template <int kStreams>
struct State {
    V abef[kStreams], cdgh[kStreams];
};

SHA_NI_INLINE V load(const std::uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const V*>(p)); }
SHA_NI_INLINE V swap_bytes(V x) {
    return _mm_shuffle_epi8(x, _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3));
}

// Rounds 4 i .. 4 i + 3; m holds the last 16 words of the message schedule.
SHA_NI_INLINE void rounds(int i, V& abef, V& cdgh, V* m) {
    const V wk = _mm_add_epi32(m[i & 3], _mm_load_si128(reinterpret_cast<const V*>(kRound) + i));
    cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
    abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0E));
    if (i < 12) {
        const V seven = _mm_alignr_epi8(m[(i + 3) & 3], m[(i + 2) & 3], 4);
        const V sum = _mm_add_epi32(_mm_sha256msg1_epu32(m[i & 3], m[(i + 1) & 3]), seven);
        m[i & 3] = _mm_sha256msg2_epu32(sum, m[(i + 3) & 3]);
    }
}

// One block of every stream; m[q]: its words, used up.
template <int kStreams>
SHA_NI_INLINE void compress(State<kStreams>& state, V (*m)[4]) {
    State<kStreams> s = state;
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i)
#pragma GCC unroll 4
        for (int q = 0; q < kStreams; ++q) rounds(i, s.abef[q], s.cdgh[q], m[q]);
    for (int q = 0; q < kStreams; ++q) {
        state.abef[q] = _mm_add_epi32(state.abef[q], s.abef[q]);
        state.cdgh[q] = _mm_add_epi32(state.cdgh[q], s.cdgh[q]);
    }
}

// state[w * kStreams + q]: word w of the stream that starts at p[q].
template <int kStreams>
SHA_NI void blocks(std::uint32_t* state, const std::uint8_t* const* p, std::size_t count) {
    State<kStreams> s;
    for (int q = 0; q < kStreams; ++q) {
        const auto word = [&](int w) { return static_cast<int>(state[w * kStreams + q]); };
        s.abef[q] = _mm_set_epi32(word(0), word(1), word(4), word(5));
        s.cdgh[q] = _mm_set_epi32(word(2), word(3), word(6), word(7));
    }
    for (std::size_t offset = 0; offset < 64 * count; offset += 64) {
        V m[kStreams][4];
        for (int q = 0; q < kStreams; ++q)
            for (int i = 0; i < 4; ++i) m[q][i] = swap_bytes(load(p[q] + offset + 16 * i));
        compress<kStreams>(s, m);
    }
    for (int q = 0; q < kStreams; ++q) {
        alignas(16) std::uint32_t x[8];
        _mm_store_si128(reinterpret_cast<V*>(x), s.abef[q]);
        _mm_store_si128(reinterpret_cast<V*>(x + 4), s.cdgh[q]);
        const std::uint32_t words[8] = {x[3], x[2], x[7], x[6], x[1], x[0], x[5], x[4]};
        for (int w = 0; w < 8; ++w) state[w * kStreams + q] = words[w];
    }
}

// Digests of kStreams rows of `width` bytes, one after the other, each behind the byte prefix.
template <int kStreams, int width>
SHA_NI void rows(std::uint8_t prefix, const std::uint8_t* in, std::uint8_t* out) {
    static_assert(width == 32 || width == 64);
    constexpr int kParts = width / 16;
    State<kStreams> s;
    V m[kStreams][4], end[kStreams];
    const V length = _mm_set_epi32(8 * (width + 1), 0, 0, 0), zero = _mm_setzero_si128();
    for (int q = 0; q < kStreams; ++q) {
        s.abef[q] = _mm_set_epi32(static_cast<int>(kInitial[0]), static_cast<int>(kInitial[1]),
                                  static_cast<int>(kInitial[4]), static_cast<int>(kInitial[5]));
        s.cdgh[q] = _mm_set_epi32(static_cast<int>(kInitial[2]), static_cast<int>(kInitial[3]),
                                  static_cast<int>(kInitial[6]), static_cast<int>(kInitial[7]));
        V before = _mm_set1_epi8(static_cast<char>(prefix));
        for (int i = 0; i < kParts; ++i) {
            const V part = load(in + width * q + 16 * i);
            m[q][i] = swap_bytes(_mm_alignr_epi8(part, before, 15));
            before = part;
        }
        // The last byte, then the padding's bit.
        end[q] = swap_bytes(_mm_alignr_epi8(_mm_cvtsi32_si128(0x80), before, 15));
        if (width == 32) m[q][2] = end[q], m[q][3] = length;
    }
    compress<kStreams>(s, m);
    if (width == 64) {
        for (int q = 0; q < kStreams; ++q) m[q][0] = end[q], m[q][1] = m[q][2] = zero, m[q][3] = length;
        compress<kStreams>(s, m);
    }
    const V order = _mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    for (int q = 0; q < kStreams; ++q) {
        V* digest = reinterpret_cast<V*>(out + 32 * q);
        _mm_storeu_si128(digest, _mm_shuffle_epi8(_mm_unpackhi_epi64(s.abef[q], s.cdgh[q]), order));
        _mm_storeu_si128(digest + 1, _mm_shuffle_epi8(_mm_unpacklo_epi64(s.abef[q], s.cdgh[q]), order));
    }
}

}  // namespace ni
#undef SHA_NI
#undef SHA_NI_INLINE
