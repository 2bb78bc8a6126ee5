// SHA-256 (FIPS 180-4) of many messages at once, each with one byte in front: 0 for a leaf, 1 for a node.
// The digests do not depend on the CPU level.  No allocation, no threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tallystick {

constexpr std::size_t kDigest = 32;  // bytes of a digest
constexpr std::uint8_t kLeaf = 0, kNode = 1;

struct Piece {
    const std::uint8_t* data;  // may be null when size is 0
    std::size_t size;
};

// The byte `prefix`, then `size` bytes that start at byte `offset` of *piece, offset <= piece->size, and run
// on through the pieces that follow it in memory.
struct Message {
    std::uint8_t prefix;
    const Piece* piece;
    std::size_t offset, size;
};

// out[32 i .. 32 i + 32) = digest of message i.  Bytes are read where they lie, at any alignment; neighbours
// with the same number of 64-byte blocks share the lanes.
void sha256(const Message* messages, std::size_t n, std::uint8_t* out);

// The same for n messages of `width` bytes that lie one after the other.  Widths 32 and 64 are the fast ones.
// out may not overlap rows.
void sha256_rows(std::uint8_t prefix, const std::uint8_t* rows, std::size_t width, std::size_t n,
                 std::uint8_t* out);

// For tests and benchmarks: the implementations that the CPU level in force allows, and one of them by name
// instead of the automatic choice ("": automatic again).  Throws std::invalid_argument for another name.
std::vector<std::string> sha256_kernels();
void sha256_force(const std::string& kernel);

}  // namespace tallystick
