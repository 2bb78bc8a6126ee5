// LANES streams in the 32-bit lanes of one vector register: 8 (AVX2) or 16 (AVX-512).  Included by sha256.cpp
// once per level inside its target region; no #include here, no std:: templates.
namespace LEVEL {
#define INLINE static inline __attribute__((always_inline))

#if LANES == 16
using V = __m512i;
INLINE V set1(std::uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
INLINE V load(const std::uint32_t* p) { return _mm512_loadu_si512(p); }
INLINE void store(std::uint32_t* p, V x) { _mm512_storeu_si512(p, x); }
INLINE V add(V a, V b) { return _mm512_add_epi32(a, b); }
INLINE V bit_or(V a, V b) { return _mm512_or_si512(a, b); }
INLINE V xor3(V a, V b, V c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
INLINE V choose(V e, V f, V g) { return _mm512_ternarylogic_epi32(e, f, g, 0xCA); }
INLINE V majority(V a, V b, V c) { return _mm512_ternarylogic_epi32(a, b, c, 0xE8); }
template <int n>
INLINE V ror(V x) {
    return _mm512_ror_epi32(x, n);
}
template <int n>
INLINE V shr(V x) {
    return _mm512_srli_epi32(x, n);
}
template <int n>
INLINE V shl(V x) {
    return _mm512_slli_epi32(x, n);
}
INLINE V low32(V a, V b) { return _mm512_unpacklo_epi32(a, b); }
INLINE V high32(V a, V b) { return _mm512_unpackhi_epi32(a, b); }
INLINE V low64(V a, V b) { return _mm512_unpacklo_epi64(a, b); }
INLINE V high64(V a, V b) { return _mm512_unpackhi_epi64(a, b); }
INLINE V swap_bytes(V x) {
    return _mm512_shuffle_epi8(
        x, _mm512_broadcast_i32x4(_mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3)));
}
// Quarter g of the result holds 16 bytes of stream 4 g + j.  Masked broadcasts: no shuffle port.
INLINE V load_quarters(const std::uint8_t* const* p, std::size_t offset) {
    const auto quarter = [&](int g) __attribute__((always_inline)) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p[4 * g] + offset));
    };
    V x = _mm512_castsi128_si512(quarter(0));
    x = _mm512_mask_broadcast_i32x4(x, 0x00F0, quarter(1));
    x = _mm512_mask_broadcast_i32x4(x, 0x0F00, quarter(2));
    return _mm512_mask_broadcast_i32x4(x, 0xF000, quarter(3));
}
// The inverse for a digest: a holds words 0..3 and b words 4..7 of streams j, 4 + j, 8 + j, 12 + j.
INLINE void store_digests(std::uint8_t* out, int j, V a, V b) {
    const V low = _mm512_permutex2var_epi64(a, _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0), b);
    const V high = _mm512_permutex2var_epi64(a, _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4), b);
    const auto put = [&](int lane, __m256i x) __attribute__((always_inline)) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * lane), x);
    };
    put(j, _mm512_castsi512_si256(low));
    put(4 + j, _mm512_extracti64x4_epi64(low, 1));
    put(8 + j, _mm512_castsi512_si256(high));
    put(12 + j, _mm512_extracti64x4_epi64(high, 1));
}
#else
using V = __m256i;
INLINE V set1(std::uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
INLINE V load(const std::uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const V*>(p)); }
INLINE void store(std::uint32_t* p, V x) { _mm256_storeu_si256(reinterpret_cast<V*>(p), x); }
INLINE V add(V a, V b) { return _mm256_add_epi32(a, b); }
INLINE V bit_or(V a, V b) { return _mm256_or_si256(a, b); }
INLINE V xor3(V a, V b, V c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
INLINE V choose(V e, V f, V g) { return _mm256_xor_si256(g, _mm256_and_si256(e, _mm256_xor_si256(f, g))); }
INLINE V majority(V a, V b, V c) { return bit_or(_mm256_and_si256(a, b), _mm256_and_si256(c, bit_or(a, b))); }
template <int n>
INLINE V shr(V x) {
    return _mm256_srli_epi32(x, n);
}
template <int n>
INLINE V shl(V x) {
    return _mm256_slli_epi32(x, n);
}
template <int n>
INLINE V ror(V x) {
    return bit_or(shr<n>(x), shl<32 - n>(x));
}
INLINE V low32(V a, V b) { return _mm256_unpacklo_epi32(a, b); }
INLINE V high32(V a, V b) { return _mm256_unpackhi_epi32(a, b); }
INLINE V low64(V a, V b) { return _mm256_unpacklo_epi64(a, b); }
INLINE V high64(V a, V b) { return _mm256_unpackhi_epi64(a, b); }
INLINE V swap_bytes(V x) {
    return _mm256_shuffle_epi8(
        x, _mm256_broadcastsi128_si256(_mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3)));
}
INLINE V load_quarters(const std::uint8_t* const* p, std::size_t offset) {
    const auto half = [&](int g) __attribute__((always_inline)) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p[4 * g] + offset));
    };
    return _mm256_inserti128_si256(_mm256_castsi128_si256(half(0)), half(1), 1);
}
INLINE void store_digests(std::uint8_t* out, int j, V a, V b) {
    const auto put = [&](int lane, V x) __attribute__((always_inline)) {
        _mm256_storeu_si256(reinterpret_cast<V*>(out + 32 * lane), x);
    };
    put(j, _mm256_permute2x128_si256(a, b, 0x20));
    put(4 + j, _mm256_permute2x128_si256(a, b, 0x31));
}
#endif

// x[0..3]: a 4 x 4 transpose of words within each 128 bits.
INLINE void transpose(V* x) {
    const V a = low32(x[0], x[1]), b = high32(x[0], x[1]), c = low32(x[2], x[3]), d = high32(x[2], x[3]);
    x[0] = low64(a, c), x[1] = high64(a, c), x[2] = low64(b, d), x[3] = high64(b, d);
}

// w[i] = big-endian word i of every stream, 0 <= i < words, from offset on.
template <int words>
INLINE void load_words(const std::uint8_t* const* p, std::size_t offset, V* w) {
#pragma GCC unroll 4
    for (int j = 0; j < 4;
         ++j)  // a stream's bytes together: at strides of 64 KiB all streams share one L1 set
#pragma GCC unroll 4
        for (int k = 0; k < words / 4; ++k) w[4 * k + j] = load_quarters(p + j, offset + 16 * k);
#pragma GCC unroll 4
    for (int k = 0; k < words / 4; ++k) transpose(w + 4 * k);
#pragma GCC unroll 16
    for (int i = 0; i < words; ++i) w[i] = swap_bytes(w[i]);
}

// Rounds 16 i .. 16 i + 15, k: their constants; w[0..15]: the last 16 words of the message schedule.
template <bool kFirst>
INLINE void rounds(const std::uint32_t* k, V* s, V* w) {
#pragma GCC unroll 16
    for (int t = 0; t < 16; ++t) {
        if (!kFirst) {
            const V x = w[(t + 1) & 15], y = w[(t + 14) & 15];
            w[t] = add(add(w[t], xor3(ror<7>(x), ror<18>(x), shr<3>(x))),
                       add(w[(t + 9) & 15], xor3(ror<17>(y), ror<19>(y), shr<10>(y))));
        }
        // a .. h of this round stand in s[-t & 7], s[(1 - t) & 7], ...: nothing moves.
        V &a = s[-t & 7], &b = s[(1 - t) & 7], &c = s[(2 - t) & 7], &d = s[(3 - t) & 7];
        V &e = s[(4 - t) & 7], &f = s[(5 - t) & 7], &g = s[(6 - t) & 7], &h = s[(7 - t) & 7];
        // Sigma1(e) comes last: what is added before it does not wait for the round before.
        const V early = add(add(h, add(w[t], set1(k[t]))), choose(e, f, g));
        const V t1 = add(early, xor3(ror<6>(e), ror<11>(e), ror<25>(e)));
        d = add(d, t1);
        h = add(t1, add(xor3(ror<2>(a), ror<13>(a), ror<22>(a)), majority(a, b, c)));
    }
}

// One block: w[0..15] are its words, used up.
INLINE void compress(V* state, V* w) {
    V s[8];
    for (int i = 0; i < 8; ++i) s[i] = state[i];
    rounds<true>(kRound, s, w);
#pragma GCC unroll 1  // all 64 rounds in a row would not fit the cache of decoded instructions
    for (int i = 16; i < 64; i += 16) rounds<false>(kRound + i, s, w);
    for (int i = 0; i < 8; ++i) state[i] = add(state[i], s[i]);
}

// state[w * LANES + q]: word w of the stream that starts at p[q].
void blocks(std::uint32_t* state, const std::uint8_t* const* p, std::size_t count) {
    V s[8], w[16];
    for (int i = 0; i < 8; ++i) s[i] = load(state + LANES * i);
    for (std::size_t offset = 0; offset < 64 * count; offset += 64) {
        load_words<16>(p, offset, w);
        compress(s, w);
    }
    for (int i = 0; i < 8; ++i) store(state + LANES * i, s[i]);
}

// Digests of LANES rows of `width` bytes, one after the other, each behind the byte prefix.
template <int width>
void rows(std::uint8_t prefix, const std::uint8_t* in, std::uint8_t* out) {
    constexpr int kWords = width / 4;
    static_assert(width == 32 || width == 64);
    const std::uint8_t* p[LANES];
    for (int q = 0; q < LANES; ++q) p[q] = in + width * q;
    V row[16], w[16], s[8];
    load_words<kWords>(p, 0, row);
    for (int i = 0; i < 8; ++i) s[i] = set1(kInitial[i]);
    const V end =
        bit_or(shl<24>(row[kWords - 1]), set1(0x00800000));  // the last byte, then the padding's bit
    const V zero = set1(0), bits = set1(8 * (width + 1));
    w[0] = bit_or(set1(std::uint32_t{prefix} << 24), shr<8>(row[0]));
    for (int i = 1; i < kWords; ++i) w[i] = bit_or(shl<24>(row[i - 1]), shr<8>(row[i]));
    if (width == 64) {
        compress(s, w);
        w[0] = end;
        for (int i = 1; i < 15; ++i) w[i] = zero;
    } else {
        w[kWords] = end;
        for (int i = kWords + 1; i < 15; ++i) w[i] = zero;
    }
    w[15] = bits;
    compress(s, w);
    for (int i = 0; i < 8; ++i) s[i] = swap_bytes(s[i]);
    transpose(s), transpose(s + 4);
    for (int j = 0; j < 4; ++j) store_digests(out, j, s[j], s[4 + j]);
}

#undef INLINE
}  // namespace LEVEL
#undef LEVEL
#undef LANES
