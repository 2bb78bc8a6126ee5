// One stream in plain C++.  Included by sha256.cpp; no #include here.
namespace scalar {

inline std::uint32_t ror(std::uint32_t x, int n) { return x >> n | x << (32 - n); }

inline std::uint32_t load_be(const std::uint8_t* p) {
    return std::uint32_t{p[0]} << 24 | std::uint32_t{p[1]} << 16 | std::uint32_t{p[2]} << 8 | p[3];
}

// state[w]: word w of the stream that starts at p[0].
void blocks(std::uint32_t* state, const std::uint8_t* const* p, std::size_t count) {
    const std::uint8_t* block = p[0];
    for (; count; --count, block += 64) {
        std::uint32_t w[16], s[8];
        for (int i = 0; i < 8; ++i) s[i] = state[i];
        for (int t = 0; t < 64; ++t) {
            if (t < 16) {
                w[t] = load_be(block + 4 * t);
            } else {
                const std::uint32_t x = w[(t - 15) & 15], y = w[(t - 2) & 15];
                w[t & 15] +=
                    (ror(x, 7) ^ ror(x, 18) ^ x >> 3) + (ror(y, 17) ^ ror(y, 19) ^ y >> 10) + w[(t - 7) & 15];
            }
            const std::uint32_t a = s[0], b = s[1], c = s[2], e = s[4], f = s[5], g = s[6];
            const std::uint32_t t1 =
                s[7] + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + (g ^ (e & (f ^ g))) + kRound[t] + w[t & 15];
            const std::uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) | (c & (a | b)));
            s[7] = g, s[6] = f, s[5] = e, s[4] = s[3] + t1;
            s[3] = c, s[2] = b, s[1] = a, s[0] = t1 + t2;
        }
        for (int i = 0; i < 8; ++i) state[i] += s[i];
    }
}

}  // namespace scalar
