#include "distances.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>  // for invalid_argument

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

#define TALLYSTICK_KERNELS "distances_kernels.h"
#include "levels.h"

template <class T>
constexpr Variants<decltype(&scalar::pack<T>)> kPack{TALLYSTICK_VARIANTS(pack<T>)};
template <class F>
constexpr Variants<decltype(&scalar::block_distances<F>)> kBlockDistances{
    TALLYSTICK_VARIANTS(block_distances<F>)};

// Distances over one block, columns [lo, lo + 512) of the rows, cut at d.
template <class T>
class Block {
  public:
    explicit Block(std::size_t n) : packed_(n * kPackedStride * sizeof(Widened<T>)), marked_(n, 0) {}

    // sums: n x n, written above the diagonal.
    void run(const Rows& rows, std::size_t lo, double* sums) {
        using F = Widened<T>;
        F* packed = reinterpret_cast<F*>(packed_.get());
        const auto pack = *kPack<T>;
        const std::size_t hi = std::min(lo + kDistanceBlock, rows.d()), k = piece_of(rows, lo);
        const bool whole = hi == lo + kDistanceBlock && hi <= static_cast<std::size_t>(rows.bounds[k + 1]);
        const std::size_t offset = (lo - static_cast<std::size_t>(rows.bounds[k])) * sizeof(T);
        for (std::size_t i = 0; i < rows.n; ++i) {
            const char* from = reinterpret_cast<const char*>(rows.pointers[i * rows.pieces + k]) + offset;
            char gathered[kDistanceBlock * sizeof(T)];
            if (!whole) {
                std::memset(gathered, 0, kDistanceBlock * sizeof(T));
                copy_columns(rows, i, k, lo, hi, gathered);
                from = gathered;
            }
            if (!pack(from, packed + i * kPackedStride)) marked_[i] = 1;
        }
        (*kBlockDistances<F>)(packed, rows.n, sums);
    }
    const std::vector<char>& marked() const { return marked_; }

  private:
    Scratch packed_;
    std::vector<char> marked_;  // clients with a NaN or infinity so far
};

// Adds the sums of `blocks` blocks, one after another, to rows [first, last) of part, above the diagonal.
void add_blocks(std::size_t n, std::size_t first, std::size_t last, const double* sums, std::size_t blocks,
                double* part) {
    for (std::size_t i = first; i < last; ++i)
        for (std::size_t b = 0; b < blocks; ++b)
            for (std::size_t j = i + 1; j < n; ++j) part[i * n + j] += sums[(b * n + i) * n + j];
}

// Blocks between two meetings of the threads: sums of up to 2 MiB, so that a meeting (some 10 us) is rare.
std::size_t blocks_at_once(std::size_t n, std::size_t blocks) {
    const auto threads = static_cast<std::size_t>(num_threads());
    if (threads == 1) return 1;
    const std::size_t fitting = (std::size_t{2} << 20) / (n * n * sizeof(double));
    return std::min(blocks, std::clamp(fitting, 2 * threads, std::max<std::size_t>(512, 2 * threads)));
}

void mirror(std::size_t n, double* matrix) {
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < i; ++j) matrix[i * n + j] = matrix[j * n + i];
}

template <class T>
Clients distances_of(const Rows& rows, std::size_t column, double* part, double* total) {
    const std::size_t n = rows.n, d = rows.d();
    const std::size_t blocks = (d + kDistanceBlock - 1) / kDistanceBlock;
    const std::size_t at_once = blocks_at_once(n, blocks);
    std::vector<double> sums(at_once * n * n);
    Block<T> own(n);  // for one thread
    std::vector<char> marked(n, 0);
    std::mutex mutex;
    const auto mark = [&](const Block<T>& block) {
        const std::lock_guard lock(mutex);
        for (std::size_t i = 0; i < n; ++i) marked[i] |= block.marked()[i];
    };
    constexpr std::size_t kPerSuperblock = kSuperblock / kDistanceBlock;
    for (std::size_t b = 0; b < blocks;) {
        const std::size_t in_super = (column / kDistanceBlock + b) % kPerSuperblock;
        const std::size_t count = std::min({at_once, blocks - b, kPerSuperblock - in_super});
        if (at_once == 1) {
            own.run(rows, b * kDistanceBlock, sums.data());
        } else {
            parallel_for(count, 1, [&](std::size_t lo, std::size_t hi) {
                Block<T> block(n);
                for (std::size_t s = lo; s < hi; ++s)
                    block.run(rows, (b + s) * kDistanceBlock, sums.data() + s * n * n);
                mark(block);
            });
        }
        parallel_for(
            n, 64, [&](std::size_t lo, std::size_t hi) { add_blocks(n, lo, hi, sums.data(), count, part); });
        b += count;
        const bool complete = b < blocks || d % kDistanceBlock == 0;
        if (complete && in_super + count == kPerSuperblock) {
            mirror(n, part);
            distances_finish(n, part, total);
        }
    }
    mirror(n, part);
    mark(own);
    Clients found;
    for (std::size_t i = 0; i < n; ++i)
        if (marked[i]) found.push_back(i);
    return found;
}

}  // namespace

Clients distances(const Rows& rows, std::size_t column, double* part, double* total) {
    if (column % kChunkUnit != 0)
        throw std::invalid_argument("distances: column: a multiple of " + std::to_string(kChunkUnit) +
                                    " expected, got " + std::to_string(column));
    if (rows.d() == 0) return {};
    return with_type(rows.dtype,
                     [&](auto x) { return distances_of<decltype(x)>(rows, column, part, total); });
}

void distances_finish(std::size_t n, double* part, double* total) {
    for (std::size_t k = 0; k < n * n; ++k) {
        total[k] += part[k];
        part[k] = 0;
    }
}

}  // namespace tallystick
