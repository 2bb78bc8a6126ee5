#include "checksum.h"

#include <array>
#include <cstring>

#include "cpu.h"
#if TALLYSTICK_X86
#include <immintrin.h>
#endif

namespace tallystick {
namespace {

using Crc = std::uint32_t (*)(const std::uint8_t*, std::size_t, std::uint32_t);

// kTable[k][b]: what byte b does to the remainder when k more bytes follow it.
constexpr auto kTable = [] {
    std::array<std::array<std::uint32_t, 256>, 8> table{};
    for (std::uint32_t b = 0; b < 256; ++b) {
        std::uint32_t x = b;
        for (int i = 0; i < 8; ++i) x = x >> 1 ^ (x & 1 ? 0x82F63B78u : 0);
        table[0][b] = x;
    }
    for (std::size_t k = 1; k < 8; ++k)
        for (std::size_t b = 0; b < 256; ++b)
            table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 255];
    return table;
}();

std::uint32_t crc_scalar(const std::uint8_t* p, std::size_t size, std::uint32_t x) {
    for (; size >= 8; size -= 8, p += 8) {
        std::uint32_t next = 0;
        for (std::size_t i = 0; i < 8; ++i) next ^= kTable[7 - i][i < 4 ? p[i] ^ (x >> 8 * i & 255) : p[i]];
        x = next;
    }
    for (; size; --size) x = x >> 8 ^ kTable[0][(x ^ *p++) & 255];
    return x;
}

#if TALLYSTICK_X86
__attribute__((target("sse4.2"))) std::uint32_t crc_sse42(const std::uint8_t* p, std::size_t size,
                                                          std::uint32_t crc) {
    std::uint64_t x = crc;
    for (; size >= 8; size -= 8, p += 8) {
        std::uint64_t word;
        std::memcpy(&word, p, 8);
        x = _mm_crc32_u64(x, word);
    }
    auto last = static_cast<std::uint32_t>(x);
    for (; size; --size) last = _mm_crc32_u8(last, *p++);
    return last;
}
#else
constexpr Crc crc_sse42 = nullptr;
#endif

constexpr Variants<Crc> kCrc{{&crc_scalar, crc_sse42, nullptr}};

}  // namespace

std::uint32_t crc32c(const std::uint8_t* data, std::size_t size, std::uint32_t crc) {
    return ~(*kCrc)(data, size, ~crc);
}

}  // namespace tallystick
