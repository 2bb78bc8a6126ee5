#include "merkle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "parallel.h"

namespace tallystick {
namespace {

constexpr std::size_t kGrain = 1024;     // short messages per task: about 0.1 ms
constexpr std::size_t kChunkGrain = 16;  // chunks per task: one group of lanes
constexpr std::size_t kBatch = 256;      // messages described at once, on the stack

constexpr Digest kEmptyRoot = {0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4,
                               0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b,
                               0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55};

Digest node_hash(const Digest& left, const Digest& right) {
    std::uint8_t pair[2 * kDigest];
    std::memcpy(pair, left.data(), kDigest);
    std::memcpy(pair + kDigest, right.data(), kDigest);
    Digest out;
    sha256_rows(kNode, pair, sizeof pair, 1, out.data());
    return out;
}

// n <= kBatch leaves.  Digests as leaves are so common that copying them side by side pays: twice as fast.
void hash_leaves(const Piece* leaves, std::size_t n, std::uint8_t* out) {
    if (std::all_of(leaves, leaves + n, [](const Piece& leaf) { return leaf.size == kDigest; })) {
        std::uint8_t rows[kBatch * kDigest];
        for (std::size_t i = 0; i < n; ++i) std::memcpy(rows + kDigest * i, leaves[i].data, kDigest);
        return sha256_rows(kLeaf, rows, kDigest, n, out);
    }
    Message messages[kBatch];
    for (std::size_t i = 0; i < n; ++i) messages[i] = {kLeaf, &leaves[i], 0, leaves[i].size};
    sha256(messages, n, out);
}

[[noreturn]] void refuse(const char* what, std::size_t given, const char* allowed, std::size_t limit) {
    throw std::invalid_argument(std::string(what) + ' ' + std::to_string(given) + ": " + allowed + ' ' +
                                std::to_string(limit) + " expected");
}

// Where RFC 9162 cuts n >= 2 leaves: the largest power of two below n.
std::size_t split(std::size_t n) { return std::bit_floor(n - 1); }

}  // namespace

std::size_t Tree::size() const {
    std::lock_guard lock(mutex_);
    return size_;
}

// fill(out) writes the n new leaf hashes.  Nothing changes when it throws.
template <class Fill>
std::size_t Tree::extend(std::size_t n, const Fill& fill) {
    std::lock_guard lock(mutex_);
    const std::size_t first = size_;
    levels_[0].resize(kDigest * (first + n));
    fill(levels_[0].data() + kDigest * first);
    grow(first + n);
    return first;
}

std::size_t Tree::extend_hashes(const std::uint8_t* hashes, std::size_t n) {
    return extend(n, [=](std::uint8_t* out) {
        if (n) std::memcpy(out, hashes, kDigest * n);
    });
}

std::size_t Tree::extend_leaves(const Piece* leaves, std::size_t n) {
    return extend(n, [=](std::uint8_t* out) {
        parallel_for(n, kGrain, [=](std::size_t lo, std::size_t hi) {
            for (; lo < hi; lo += kBatch)
                hash_leaves(leaves + lo, std::min(hi - lo, kBatch), out + kDigest * lo);
        });
    });
}

std::size_t Tree::extend_rows(const std::uint8_t* rows, std::size_t width, std::size_t n) {
    return extend(n, [=](std::uint8_t* out) {
        parallel_for(n, kGrain, [=](std::size_t lo, std::size_t hi) {
            sha256_rows(kLeaf, rows + width * lo, width, hi - lo, out + kDigest * lo);
        });
    });
}

// Hashes what the leaves from size_ to size have completed on every level, then takes the new size.
void Tree::grow(std::size_t size) {
    for (std::size_t k = 1; size >> k; ++k) {
        if (levels_.size() == k) levels_.emplace_back();
        const std::size_t before = size_ >> k, now = size >> k;
        levels_[k].resize(kDigest * now);
        const std::uint8_t* in = levels_[k - 1].data();
        std::uint8_t* out = levels_[k].data();
        parallel_for(now - before, kGrain, [=](std::size_t lo, std::size_t hi) {
            sha256_rows(kNode, in + 2 * kDigest * (before + lo), 2 * kDigest, hi - lo,
                        out + kDigest * (before + lo));
        });
    }
    size_ = size;
}

// MTH of leaves lo .. hi - 1, lo < hi, where lo is a multiple of a power of two >= hi - lo.
Digest Tree::subtree(std::size_t lo, std::size_t hi) const {
    const std::size_t n = hi - lo;
    if (!std::has_single_bit(n)) return node_hash(subtree(lo, lo + split(n)), subtree(lo + split(n), hi));
    const int level = std::countr_zero(n);
    Digest out;
    std::memcpy(out.data(), levels_[level].data() + kDigest * (lo >> level), kDigest);
    return out;
}

Digest Tree::root(std::size_t size) const {
    std::lock_guard lock(mutex_);
    if (size > size_) refuse("root: size", size, "at most", size_);
    return size ? subtree(0, size) : kEmptyRoot;
}

std::vector<Digest> Tree::prove(std::size_t index, std::size_t size) const {
    std::lock_guard lock(mutex_);
    if (size > size_) refuse("prove: size", size, "at most", size_);
    if (index >= size) refuse("prove: index", index, "below", size);
    std::vector<Digest> path;
    for (std::size_t lo = 0, hi = size; hi - lo > 1;) {
        const std::size_t middle = lo + split(hi - lo);
        path.push_back(index < middle ? subtree(middle, hi) : subtree(lo, middle));
        (index < middle ? hi : lo) = middle;
    }
    std::reverse(path.begin(), path.end());
    return path;
}

std::vector<Digest> Tree::prove_consistency(std::size_t old_size, std::size_t size) const {
    std::lock_guard lock(mutex_);
    if (size > size_) refuse("prove_consistency: size", size, "at most", size_);
    if (old_size > size) refuse("prove_consistency: old size", old_size, "at most", size);
    std::vector<Digest> path;
    if (old_size == 0) return path;
    std::size_t lo = 0, hi = size;
    while (hi != old_size) {
        const std::size_t middle = lo + split(hi - lo);
        path.push_back(old_size <= middle ? subtree(middle, hi) : subtree(lo, middle));
        (old_size <= middle ? hi : lo) = middle;
    }
    if (lo != 0) path.push_back(subtree(lo, hi));  // a part of the old tree that the verifier does not know
    std::reverse(path.begin(), path.end());
    return path;
}

std::vector<std::uint8_t> chunk_hashes(const Piece* pieces, std::size_t n, std::size_t chunk) {
    std::vector<std::size_t> starts(n + 1);  // of every piece in the concatenation; the total last
    for (std::size_t i = 0; i < n; ++i) starts[i + 1] = starts[i] + pieces[i].size;
    const std::size_t total = starts[n], count = total / chunk + (total % chunk != 0);
    std::vector<std::uint8_t> out(kDigest * count);
    parallel_for(count, kChunkGrain, [&](std::size_t lo, std::size_t hi) {
        Message messages[kChunkGrain];
        for (; lo < hi; lo += kChunkGrain) {
            const std::size_t group = std::min(hi - lo, kChunkGrain);
            for (std::size_t i = 0; i < group; ++i) {
                const std::size_t at = (lo + i) * chunk;
                const auto after = std::upper_bound(starts.begin(), starts.end(), at);  // at < total
                const auto piece = static_cast<std::size_t>(after - starts.begin()) - 1;
                messages[i] = {kLeaf, &pieces[piece], at - starts[piece], std::min(chunk, total - at)};
            }
            sha256(messages, group, out.data() + kDigest * lo);
        }
    });
    return out;
}

}  // namespace tallystick
