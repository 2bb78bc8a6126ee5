#include "distances.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>  // for invalid_argument
#include <string>
#include <type_traits>  // for conditional_t

#include "cpu.h"
#include "exact.h"
#include "intrinsics.h"
#include "parallel.h"
#include "rounding.h"
#include "rows.h"
#include "typed.h"

namespace tallystick {
namespace {

constexpr std::size_t kLanes = 16;
constexpr std::size_t kPackedStride =
    kDistanceBlock + 16;  // not a power of two: rows fall into different cache sets

// A sum of squared differences or of products: of which values, in which format.
template <class T, bool kProducts>
struct Sum {
    using Value = T;
    using F = std::conditional_t<kProducts, double, Widened<T>>;
    static constexpr bool kProduct = kProducts;
    using Packed = Sum<F, kProducts>;
};

#define TALLYSTICK_KERNELS "distances_kernels.h"
#include "levels.h"

template <class S>
constexpr Variants<decltype(&scalar::pack<S>)> kPack{TALLYSTICK_VARIANTS(pack<S>)};
template <class S>
constexpr Variants<decltype(&scalar::block_pairs<S>)> kBlockPairs{TALLYSTICK_VARIANTS(block_pairs<S>)};
using BlockSingle = bool (*)(const char*, const char*, double*, double*);
template <class S>
constexpr Variants<BlockSingle> kBlockNorms{TALLYSTICK_VARIANTS(block_norms<S>)};
template <class S>
constexpr Variants<BlockSingle> kBlockOther{TALLYSTICK_VARIANTS(block_other<S>)};
template <class S>
constexpr Variants<BlockSingle> kBlockBoth{TALLYSTICK_VARIANTS(block_both<S>)};

// Columns [lo, lo + 512) of the rows, cut at d: where they stand.
class Place {
  public:
    Place(const Rows& rows, std::size_t lo)
        : rows_(rows), lo_(lo), hi_(std::min(lo + kDistanceBlock, rows.d())), piece_(piece_of(rows, lo)) {
        const auto end = static_cast<std::size_t>(rows.bounds[piece_ + 1]);
        whole_ = hi_ == lo + kDistanceBlock && hi_ <= end;
        offset_ = (lo - static_cast<std::size_t>(rows.bounds[piece_])) * size_of(rows.dtype);
    }
    // The block of row i, in its place or, filled up with zeros, in `gathered`.
    const char* of(std::size_t i, char* gathered) const {
        if (whole_) return reinterpret_cast<const char*>(rows_.pointers[i * rows_.pieces + piece_]) + offset_;
        std::memset(gathered, 0, kDistanceBlock * size_of(rows_.dtype));
        copy_columns(rows_, i, piece_, lo_, hi_, gathered);
        return gathered;
    }

  private:
    const Rows& rows_;
    std::size_t lo_, hi_, piece_, offset_;
    bool whole_;
};

// All pairs: n x n sums of a block, written above the diagonal (products: on it, too).
template <class S>
class Pairs {
  public:
    using F = typename S::F;
    static constexpr std::size_t kFrom = S::kProduct ? 0 : 1;

    explicit Pairs(const Rows& rows) : rows_(rows), packed_(rows.n * kPackedStride * sizeof(F)) {}
    static constexpr std::size_t kAtOnce = 1;
    static std::size_t width(std::size_t n) { return n * n; }

    // The sums of blocks [first, last).
    void run(std::size_t first, std::size_t last, double* sums, char* marked) {
        for (; first < last; ++first, sums += width(rows_.n)) run(first * kDistanceBlock, sums, marked);
    }
    void run(std::size_t lo, double* sums, char* marked) {
        F* packed = reinterpret_cast<F*>(packed_.get());
        const auto pack = *kPack<S>;
        const Place place(rows_, lo);
        char gathered[kDistanceBlock * sizeof(typename S::Value)];
        for (std::size_t i = 0; i < rows_.n; ++i)
            if (!pack(place.of(i, gathered), packed + i * kPackedStride)) marked[i] = 1;
        (*kBlockPairs<typename S::Packed>)(packed, rows_.n, sums);
    }
    // Adds the sums of `blocks` blocks, one after another, to rows [first, last) of part.
    static void add(std::size_t n, std::size_t first, std::size_t last, const double* sums,
                    std::size_t blocks, double* part) {
        for (std::size_t i = first; i < last; ++i)
            for (std::size_t b = 0; b < blocks; ++b)
                for (std::size_t j = i + kFrom; j < n; ++j) part[i * n + j] += sums[(b * n + i) * n + j];
    }
    static void complete(std::size_t n, double* matrix) {
        for (std::size_t i = 0; i < n; ++i)
            for (std::size_t j = 0; j < i; ++j) matrix[i * n + j] = matrix[j * n + i];
    }

  private:
    const Rows& rows_;
    Scratch packed_;
};

// Every row with itself (kNorms), then every row with row `other` (kOther).
template <class S, bool kNorms, bool kOther>
class Single {
  public:
    static constexpr std::size_t kAtOnce = 16;  // blocks of a row in one go: memory likes long runs

    Single(const Rows& rows, std::size_t other) : rows_(rows), other_(other) {}
    static std::size_t width(std::size_t n) { return n * (kNorms + kOther); }

    void run(std::size_t first, std::size_t last, double* sums, char* marked) {
        const BlockSingle block = *(!kOther ? kBlockNorms<S> : kNorms ? kBlockBoth<S> : kBlockOther<S>);
        char gathered[kDistanceBlock * sizeof(typename S::Value)], aside[sizeof gathered];
        for (std::size_t i = 0; i < rows_.n; ++i)
            for (std::size_t b = first; b < last; ++b) {
                const Place place(rows_, b * kDistanceBlock);
                const char* y = kOther ? place.of(other_, aside) : nullptr;
                double* to = sums + (b - first) * width(rows_.n) + i;
                if (!block(place.of(i, gathered), y, to, to + kNorms * rows_.n)) marked[i] = 1;
            }
    }
    static void add(std::size_t n, std::size_t first, std::size_t last, const double* sums,
                    std::size_t blocks, double* part) {
        const std::size_t all = width(n);
        for (std::size_t b = 0; b < blocks; ++b)
            for (std::size_t k = first; k < all; k += n)
                for (std::size_t i = k; i < k + last - first; ++i) part[i] += sums[b * all + i];
    }
    static void complete(std::size_t, double*) {}

  private:
    const Rows& rows_;
    std::size_t other_;
};

// Blocks between two meetings of the threads: sums of up to 2 MiB, so that a meeting (some 10 us) is rare.
std::size_t blocks_at_once(std::size_t width, std::size_t blocks, std::size_t alone) {
    const auto threads = static_cast<std::size_t>(num_threads());
    if (threads == 1) return alone;
    const std::size_t fitting = (std::size_t{2} << 20) / (width * sizeof(double));
    return std::min(blocks, std::clamp(fitting, 2 * threads, std::max<std::size_t>(512, 2 * threads)));
}

// make(): what sums up blocks for one thread.
template <class Make>
Clients measure(const Rows& rows, std::size_t column, double* part, double* total, Make make) {
    using Block = decltype(make());
    const std::size_t n = rows.n, d = rows.d(), width = Block::width(n);
    const std::size_t blocks = (d + kDistanceBlock - 1) / kDistanceBlock;
    const std::size_t at_once = blocks_at_once(width, blocks, Block::kAtOnce);
    std::vector<double> sums(at_once * width);
    Block own = make();  // for one thread
    std::vector<char> marked(n, 0);
    std::mutex mutex;
    constexpr std::size_t kPerSuperblock = kSuperblock / kDistanceBlock;
    for (std::size_t b = 0; b < blocks;) {
        const std::size_t in_super = (column / kDistanceBlock + b) % kPerSuperblock;
        const std::size_t count = std::min({at_once, blocks - b, kPerSuperblock - in_super});
        if (at_once <= Block::kAtOnce) {
            own.run(b, b + count, sums.data(), marked.data());
        } else {
            parallel_for(count, 1, [&](std::size_t lo, std::size_t hi) {
                Block block = make();
                std::vector<char> found(n, 0);
                block.run(b + lo, b + hi, sums.data() + lo * width, found.data());
                const std::lock_guard lock(mutex);
                for (std::size_t i = 0; i < n; ++i) marked[i] |= found[i];
            });
        }
        parallel_for(
            n, 64, [&](std::size_t lo, std::size_t hi) { Block::add(n, lo, hi, sums.data(), count, part); });
        b += count;
        const bool complete = b < blocks || d % kDistanceBlock == 0;
        if (complete && in_super + count == kPerSuperblock) {
            Block::complete(n, part);
            distances_finish(width, part, total);
        }
    }
    Block::complete(n, part);
    Clients found;
    for (std::size_t i = 0; i < n; ++i)
        if (marked[i]) found.push_back(i);
    return found;
}

void check_chunk(const Rows& rows, const char* name, std::size_t column, std::size_t row) {
    if (column % kChunkUnit != 0)
        throw std::invalid_argument(std::string(name) + ": column: a multiple of " +
                                    std::to_string(kChunkUnit) + " expected, got " + std::to_string(column));
    if (row >= rows.n)
        throw std::invalid_argument(std::string(name) + ": row: below " + std::to_string(rows.n) +
                                    " expected, got " + std::to_string(row));
}

}  // namespace

Clients distances(const Rows& rows, std::size_t column, double* part, double* total) {
    check_chunk(rows, "distances", column, 0);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) {
        return measure(rows, column, part, total, [&] { return Pairs<Sum<decltype(x), false>>(rows); });
    });
}

Clients products(const Rows& rows, std::size_t column, double* part, double* total) {
    check_chunk(rows, "products", column, 0);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) {
        return measure(rows, column, part, total, [&] { return Pairs<Sum<decltype(x), true>>(rows); });
    });
}

Clients norms(const Rows& rows, std::size_t column, double* part, double* total) {
    check_chunk(rows, "norms", column, 0);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) {
        return measure(rows, column, part, total,
                       [&] { return Single<Sum<decltype(x), true>, true, false>(rows, 0); });
    });
}

Clients distances_to(const Rows& rows, std::size_t row, std::size_t column, double* part, double* total) {
    check_chunk(rows, "distances_to", column, row);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) {
        return measure(rows, column, part, total,
                       [&] { return Single<Sum<decltype(x), false>, false, true>(rows, row); });
    });
}

Clients products_with(const Rows& rows, std::size_t row, std::size_t column, double* part, double* total) {
    check_chunk(rows, "products_with", column, row);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) {
        return measure(rows, column, part, total,
                       [&] { return Single<Sum<decltype(x), true>, true, true>(rows, row); });
    });
}

void distances_finish(std::size_t count, double* part, double* total) {
    for (std::size_t k = 0; k < count; ++k) {
        total[k] += part[k];
        part[k] = 0;
    }
}

}  // namespace tallystick
