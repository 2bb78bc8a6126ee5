// RFC 9162 section 2.1: the Merkle tree hash over SHA-256, inclusion and consistency proofs, and the hashing
// of long byte strings in chunks.  Results do not depend on threads or CPU level.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "sha256.h"

namespace tallystick {

using Digest = std::array<std::uint8_t, kDigest>;

// An append-only tree that keeps the hash of every complete subtree: 64 bytes per leaf.
// Safe to use from several threads at once.  Sizes and indices out of range throw std::invalid_argument.
class Tree {
  public:
    std::size_t size() const;
    // Adds n leaves and returns the index of the first one.
    std::size_t extend_hashes(const std::uint8_t* hashes, std::size_t n);  // n digests, as they are
    std::size_t extend_leaves(const Piece* leaves, std::size_t n);         // the leaves' bytes
    std::size_t extend_rows(const std::uint8_t* rows, std::size_t width, std::size_t n);  // n * width bytes

    // MTH of the first `size` leaves, size <= size(); SHA-256("") for none.
    Digest root(std::size_t size) const;
    // Path from leaf `index` to the root of the first `size` leaves, index < size <= size(); lowest node
    // first.
    std::vector<Digest> prove(std::size_t index, std::size_t size) const;
    // That the first `old_size` leaves begin the first `size`, old_size <= size <= size().  Empty for 0 and
    // size.
    std::vector<Digest> prove_consistency(std::size_t old_size, std::size_t size) const;

  private:
    template <class Fill>
    std::size_t extend(std::size_t n, const Fill& fill);
    void grow(std::size_t size);
    Digest subtree(std::size_t lo, std::size_t hi) const;

    mutable std::mutex mutex_;
    std::size_t size_ = 0;
    std::vector<std::vector<std::uint8_t>> levels_{1};  // levels_[k]: digests of the complete subtrees of 2^k
};

// Leaf hashes of the chunks of the concatenated pieces: every chunk has `chunk` >= 1 bytes, the last one 1 to
// chunk.  No bytes, no chunks.  Nothing is copied but 64-byte blocks across the pieces' borders.
std::vector<std::uint8_t> chunk_hashes(const Piece* pieces, std::size_t n, std::size_t chunk);

}  // namespace tallystick
