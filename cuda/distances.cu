// Squared distances and inner products of clients, in the shape of csrc/distances.h.
//
//   sums_kernel  one block of 512 columns for a tile of clients x clients: chunks of columns go through
//   shared
//                memory (coalesced loads, widened), then 16 threads, one for each lane of the shape, hold the
//                sums of kSquare x kSquare pairs in registers: two floating-point operations per pair and
//                column, 2 / kSquare loads from shared memory. The lanes meet by shuffles; out: one value per
//                pair and block of columns.
//   single_kernel  16 threads, one for each lane, per client and block: its square, and what it makes with
//   one
//                other client; memory-bound.
//   add_kernel   adds these up in order, in float64, a superblock at a time.
// Products are float64 whatever the rows are: half the rate of the distances of float32 rows where the device
// has float64 units. Bound: floating-point issue for n > 16 (n = 100: some 10^4 operations and 400 bytes a
// column; of them tiles of 8 x 8 waste 15 %), memory below. A row is read ceil(n / 32) + 1 times, but once
// from memory: blocks that share it run side by side.
#include "distances.cuh"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "columns.cuh"
#include "distances.h"
#include "memory.cuh"
#include "walk.cuh"

namespace tallystick::cuda {
namespace {

constexpr unsigned kLanes = 16, kSpan = static_cast<unsigned>(kDistanceBlock);
constexpr unsigned kBlocksPerSuper = static_cast<unsigned>(kSuperblock / kDistanceBlock);
constexpr unsigned kAllLanes = 0xffffffffu;

// ---- Device helpers ----

// Pieced rows of any alignment.
struct PiecedRows {
    const std::uint64_t* address;  // [piece * n + client]
    const std::int64_t* bounds;    // pieces + 1
    unsigned n, pieces;
    unsigned* bad;

    __device__ std::size_t columns() const { return static_cast<std::size_t>(bounds[pieces]); }
    // The piece of a column, which must not be beyond the last.
    __device__ unsigned piece_of(std::size_t column) const {
        unsigned low = 0, high = pieces - 1;
        while (low < high) {
            const unsigned middle = (low + high + 1) / 2;
            if (static_cast<std::size_t>(bounds[middle]) <= column) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        return low;
    }
};

__device__ inline float from_bits(std::uint64_t bits, float) {
    return float_of(static_cast<std::uint32_t>(bits));
}
__device__ inline double from_bits(std::uint64_t bits, double) { return double_of(bits); }
__device__ inline Half from_bits(std::uint64_t bits, Half) { return {static_cast<std::uint16_t>(bits)}; }
__device__ inline Brain from_bits(std::uint64_t bits, Brain) { return {static_cast<std::uint16_t>(bits)}; }

template <class T>
__device__ T read_any(std::uint64_t address) {
    if (address % sizeof(T) == 0) return *reinterpret_cast<const T*>(address);
    const unsigned char* p = reinterpret_cast<const unsigned char*>(address);
    std::uint64_t bits = 0;
#pragma unroll
    for (unsigned k = 0; k < sizeof(T); ++k) bits |= std::uint64_t{p[k]} << 8 * k;
    return from_bits(bits, T{});
}

// What of a block of columns is in shared memory at a time, for rows of F.
template <class F>
constexpr unsigned kChunk = sizeof(F) == 8 ? 64 : 128;
// Two threads of a warp whose rows are kSquare apart find their lanes in different banks.
template <class F, unsigned kSquare>
constexpr unsigned kStride = kChunk<F> + 16 / kSquare;

// Columns [column, column + kChunk) of `count` clients from `first` on, widened, to tile; zeros beyond the
// last column or client. Reports who is not finite, if asked to.
template <class T, unsigned kSquare, class F>
__device__ __forceinline__ void load_chunk(const PiecedRows& rows, unsigned first, unsigned count,
                                           std::size_t column, F* tile, bool report) {
    constexpr unsigned kWidth = kChunk<F>;
    const unsigned c = threadIdx.x % kWidth, step = blockDim.x / kWidth;
    const std::size_t at = column + c;
    const bool inside = at < rows.columns();
    const unsigned k = inside ? rows.piece_of(at) : 0;
    const std::uint64_t offset = inside ? (at - static_cast<std::size_t>(rows.bounds[k])) * sizeof(T) : 0;
    const std::uint64_t* address = rows.address + std::size_t{k} * rows.n;
#pragma unroll 4
    for (unsigned r = threadIdx.x / kWidth; r < count; r += step) {
        const unsigned i = first + r;
        F x = 0;
        if (inside && i < rows.n) {
            x = static_cast<F>(widen(read_any<T>(address[i] + offset)));
            if (report && !finite(x)) raise(rows.bad + i, 1);
        }
        tile[r * kStride<F, kSquare> + c] = x;
    }
}

// What a sum over values of T is computed in.
template <class T, bool kProduct>
using Summed = std::conditional_t<kProduct, double, Widened<T>>;

__device__ inline float fused_sum(float x, float y, float sum) { return fmaf(x, y, sum); }
__device__ inline double fused_sum(double x, double y, double sum) { return fused(x, y, sum); }

// sum + (x - y)^2, or sum + x y.
template <bool kProduct, class F>
__device__ __forceinline__ F add_term(F x, F y, F sum) {
    if constexpr (kProduct) return fused_sum(x, y, sum);
    const F t = x - y;
    return fused_sum(t, t, sum);
}

// sum[j * kSquare + i] += over this thread's lane of a chunk of rows x, x + 1, ... and y, y + 1, ...
template <unsigned kSquare, bool kProduct, class F>
__device__ __forceinline__ void add_chunk(const F* x, const F* y, F (&sum)[kSquare * kSquare]) {
    constexpr unsigned stride = kStride<F, kSquare>;
#pragma unroll 1
    for (unsigned c = 0; c < kChunk<F>; c += kLanes) {
        F u[kSquare];
#pragma unroll
        for (unsigned i = 0; i < kSquare; ++i) u[i] = x[i * stride + c];
#pragma unroll
        for (unsigned j = 0; j < kSquare; ++j) {
            const F v = y[j * stride + c];
#pragma unroll
            for (unsigned i = 0; i < kSquare; ++i)
                sum[j * kSquare + i] = add_term<kProduct>(u[i], v, sum[j * kSquare + i]);
        }
    }
}

// The tree over 16 lanes, for kCount sums at once: each step passes on half of them, so that lane l ends with
// the kCount / 16 sums from l * (kCount / 16) on, in the first places.
template <unsigned kCount, unsigned kWidth = kLanes / 2, class F, unsigned kAll>
__device__ __forceinline__ void fold(F (&sum)[kAll], unsigned lane) {
    if constexpr (kWidth > 0) {
        constexpr unsigned kHalf = kCount / 2;
        const bool upper = lane & kWidth;
#pragma unroll
        for (unsigned k = 0; k < kHalf; ++k) {
            const F own = upper ? sum[k + kHalf] : sum[k], other = upper ? sum[k] : sum[k + kHalf];
            sum[k] = own + __shfl_xor_sync(kAllLanes, other, kWidth);
        }
        fold<kHalf, kWidth / 2>(sum, lane);
    }
}

// Place of a pair i < j (products: i <= j), column by column.
template <bool kProduct>
__device__ inline std::size_t pair_of(std::size_t i, std::size_t j) {
    return (kProduct ? j * (j + 1) : j * (j - 1)) / 2 + i;
}

// Writes what fold() left for clients a, a + 1, ... and b, b + 1, ...
template <unsigned kSquare, bool kProduct, class F>
__device__ __forceinline__ void store_pairs(const F (&sum)[kSquare * kSquare], unsigned lane, unsigned a,
                                            unsigned b, unsigned n, F* out) {
    constexpr unsigned kEach = kSquare * kSquare / kLanes;
#pragma unroll
    for (unsigned k = 0; k < kEach; ++k) {
        const unsigned at = lane * kEach + k, i = a + at % kSquare, j = b + at / kSquare;
        if ((i < j || (kProduct && i == j)) && j < n) out[pair_of<kProduct>(i, j)] = sum[k];
    }
}

// (row, column) of entry u of an upper triangle, column by column: (0, 0), (0, 1), (1, 1), (0, 2), ...
struct Place {
    unsigned row, column;
};
__device__ inline Place place_in_triangle(unsigned u) {
    unsigned column = 0;
    while (u > column) u -= ++column;
    return {u, column};
}

// ---- Kernels ----

// Many clients: a tile of kSide x kSide for the pair of groups blockIdx.x, 4 x 4 squares of it, 16 threads
// each.
template <class F>
constexpr unsigned kSquareOf = sizeof(F) == 8 ? 4 : 8;
template <class F>
constexpr unsigned kSide = 4 * kSquareOf<F>;

template <class T, bool kProduct>
__global__ void __launch_bounds__(kBlock, 2)
    sums_kernel(PiecedRows rows, std::size_t first_block, std::size_t pairs, Summed<T, kProduct>* sums) {
    using F = Summed<T, kProduct>;
    constexpr unsigned kSquare = kSquareOf<F>, kRows = kSide<F>, stride = kStride<F, kSquare>;
    TALLYSTICK_SHARED(F, tile, 2 * kRows * stride);
    const Place place = place_in_triangle(blockIdx.x);
    const unsigned lane = threadIdx.x % kLanes, square = threadIdx.x / kLanes;
    const bool diagonal = place.row == place.column;
    const unsigned a = place.row * kRows + square / 4 * kSquare,
                   b = place.column * kRows + square % 4 * kSquare;
    const bool wanted = __ballot_sync(kAllLanes, a <= b && a < rows.n && b < rows.n) != 0;  // by warp
    const F* x = tile + (square / 4 * kSquare) * stride + lane;
    const F* y = tile + ((diagonal ? 0 : kRows) + square % 4 * kSquare) * stride + lane;
    F sum[kSquare * kSquare] = {};
    const std::size_t from = (first_block + blockIdx.y) * kSpan;
#pragma unroll 1
    for (unsigned c = 0; c < kSpan; c += kChunk<F>) {
        load_chunk<T, kSquare>(rows, place.row * kRows, kRows, from + c, tile, diagonal);
        if (!diagonal)
            load_chunk<T, kSquare>(rows, place.column * kRows, kRows, from + c, tile + kRows * stride, false);
        __syncthreads();
        if (wanted) add_chunk<kSquare, kProduct>(x, y, sum);
        __syncthreads();
    }
    if (!wanted) return;
    fold<kSquare * kSquare>(sum, lane);
    store_pairs<kSquare, kProduct>(sum, lane, a, b, rows.n, sums + blockIdx.y * pairs);
}

// Few clients: all pairs in squares of 4 x 4, several blocks of columns at a time.
constexpr unsigned kFew = 16, kFewSquare = 4, kFewRows = 64;

template <class T, bool kProduct>
__global__ void __launch_bounds__(kBlock, 2)
    few_sums_kernel(PiecedRows rows, std::size_t first_block, std::size_t blocks, unsigned at_once,
                    std::size_t pairs, Summed<T, kProduct>* sums) {
    using F = Summed<T, kProduct>;
    constexpr unsigned stride = kStride<F, kFewSquare>;
    TALLYSTICK_SHARED(F, tile, kFewRows * stride);
    const unsigned groups = (rows.n + kFewSquare - 1) / kFewSquare, squares = groups * (groups + 1) / 2;
    const unsigned lane = threadIdx.x % kLanes, square = threadIdx.x / kLanes;
    const unsigned part = square / squares < at_once ? square / squares : at_once - 1;  // idle ones: the last
    const Place place = place_in_triangle(square % squares);
    const F* own = tile + part * groups * kFewSquare * stride + lane;
    const F *x = own + place.row * kFewSquare * stride, *y = own + place.column * kFewSquare * stride;
    F sum[kFewSquare * kFewSquare] = {};
    const std::size_t from = std::size_t{blockIdx.x} * at_once;
#pragma unroll 1
    for (unsigned c = 0; c < kSpan; c += kChunk<F>) {
        for (unsigned p = 0; p < at_once; ++p)
            load_chunk<T, kFewSquare>(rows, 0, groups * kFewSquare, (first_block + from + p) * kSpan + c,
                                      tile + p * groups * kFewSquare * stride, true);
        __syncthreads();
        add_chunk<kFewSquare, kProduct>(x, y, sum);
        __syncthreads();
    }
    fold<kFewSquare * kFewSquare>(sum, lane);
    if (square < squares * at_once && from + part < blocks)
        store_pairs<kFewSquare, kProduct>(sum, lane, place.row * kFewSquare, place.column * kFewSquare,
                                          rows.n, sums + (from + part) * pairs);
}

// Of every client, in a block of columns, the sum with itself (kNorms), then with client `other` (kOther).
template <class T, bool kProduct, bool kNorms, bool kOther>
__global__ void __launch_bounds__(kBlock, 2)
    single_kernel(PiecedRows rows, unsigned other, std::size_t first_block, Summed<T, kProduct>* sums) {
    using F = Summed<T, kProduct>;
    const unsigned lane = threadIdx.x % kLanes;
    const unsigned client = blockIdx.x * (kBlock / kLanes) + threadIdx.x / kLanes;
    const unsigned i = client < rows.n ? client : rows.n - 1;  // idle ones: the last again
    const std::size_t from = (first_block + blockIdx.y) * kSpan;
    F own = 0, both = 0;
    bool sane = true;
#pragma unroll 8
    for (unsigned c = lane; c < kSpan; c += kLanes) {
        const std::size_t at = from + c;
        if (at >= rows.columns()) continue;  // zeros add nothing
        const unsigned k = rows.piece_of(at);
        const std::uint64_t offset = (at - static_cast<std::size_t>(rows.bounds[k])) * sizeof(T);
        const std::uint64_t* address = rows.address + std::size_t{k} * rows.n;
        const F x = static_cast<F>(widen(read_any<T>(address[i] + offset)));
        sane = sane && finite(x);
        if (kNorms) own = add_term<kProduct>(x, x, own);
        if (kOther)
            both = add_term<kProduct>(x, static_cast<F>(widen(read_any<T>(address[other] + offset))), both);
    }
    if (!sane) raise(rows.bad + i, 1);
#pragma unroll
    for (unsigned w = kLanes / 2; w > 0; w /= 2) {
        if (kNorms) own += __shfl_xor_sync(kAllLanes, own, w);
        if (kOther) both += __shfl_xor_sync(kAllLanes, both, w);
    }
    if (lane != 0 || client >= rows.n) return;
    F* to = sums + blockIdx.y * std::size_t{rows.n} * (kNorms + kOther);
    if (kNorms) to[i] = own;
    if (kOther) to[kNorms * rows.n + i] = both;
}

// Blocks of a launch that belong to superblock blockIdx.y of it, added up in order: the first goes on with
// part, the others start at 0. 32 pairs per block.
constexpr unsigned kPairs = 32, kDepth = 64;  // blocks in shared memory at a time

template <class F>
__global__ void __launch_bounds__(kBlock, 1)
    add_kernel(const F* sums, std::size_t pairs, std::size_t blocks, std::size_t before, const double* part,
               double* found) {
    TALLYSTICK_SHARED(F, tile, kDepth * kPairs);
    const unsigned own = threadIdx.x % kPairs;
    const std::size_t pair = std::size_t{blockIdx.x} * kPairs + own;
    const std::size_t super = std::size_t{blockIdx.y} * kBlocksPerSuper;
    const std::size_t first = super > before ? super - before : 0;  // `before` blocks are in part already
    const std::size_t end = super + kBlocksPerSuper - before, last = end < blocks ? end : blocks;
    double sum = blockIdx.y == 0 && pair < pairs ? part[pair] : 0;
    for (std::size_t from = first; from < last; from += kDepth) {
#pragma unroll
        for (unsigned k = 0; k < kDepth; k += kBlock / kPairs) {
            const unsigned b = k + threadIdx.x / kPairs;
            if (from + b < last && pair < pairs) tile[b * kPairs + own] = sums[(from + b) * pairs + pair];
        }
        __syncthreads();
        if (threadIdx.x < kPairs && pair < pairs)
            for (unsigned b = 0; b < kDepth && from + b < last; ++b)
                sum += static_cast<double>(tile[b * kPairs + own]);
        __syncthreads();
    }
    if (threadIdx.x < kPairs && pair < pairs) found[blockIdx.y * pairs + pair] = sum;
}

// total += the superblocks that are complete, in order; what is left becomes part.
__global__ void __launch_bounds__(kBlock, 1)
    finish_kernel(const double* found, std::size_t pairs, unsigned supers, bool complete, double* part,
                  double* total) {
    for (std::size_t pair = first_column(); pair < pairs; pair += all_threads()) {
        double sum = total[pair];
        for (unsigned s = 0; s + !complete < supers; ++s) sum += found[s * pairs + pair];
        total[pair] = sum;
        part[pair] = complete ? 0 : found[(supers - 1) * pairs + pair];
    }
}

// ---- Launchers ----

constexpr std::size_t kScratch = std::size_t{1} << 24;  // values of sums, 64 MiB
constexpr std::size_t kMostBlocks = 32768;              // of a launch: below the limit of a grid

template <class T, bool kProduct>
void launch_sums(const PiecedRows& rows, std::size_t first_block, std::size_t blocks, std::size_t pairs,
                 Summed<T, kProduct>* sums, cudaStream_t stream) {
    using F = Summed<T, kProduct>;
    const auto count = static_cast<unsigned>(blocks);
    if (rows.n <= kFew) {
        const unsigned groups = (rows.n + kFewSquare - 1) / kFewSquare, squares = groups * (groups + 1) / 2;
        const unsigned at_once = std::min(kFewRows / (groups * kFewSquare), kBlock / kLanes / squares);
        TALLYSTICK_LAUNCH((few_sums_kernel<T, kProduct>), (count + at_once - 1) / at_once, kBlock, 0, stream,
                          rows, first_block, blocks, at_once, pairs, sums);
    } else {
        const unsigned groups = (rows.n + kSide<F> - 1) / kSide<F>;
        TALLYSTICK_LAUNCH((sums_kernel<T, kProduct>), dim3(groups * (groups + 1) / 2, count), kBlock, 0,
                          stream, rows, first_block, pairs, sums);
    }
    check_launch();
}

template <class T, bool kProduct, bool kNorms, bool kOther>
void launch_single(const PiecedRows& rows, std::size_t other, std::size_t first_block, std::size_t blocks,
                   Summed<T, kProduct>* sums, cudaStream_t stream) {
    constexpr unsigned kEach = kBlock / kLanes;
    TALLYSTICK_LAUNCH((single_kernel<T, kProduct, kNorms, kOther>),
                      dim3((rows.n + kEach - 1) / kEach, static_cast<unsigned>(blocks)), kBlock, 0, stream,
                      rows, static_cast<unsigned>(other), first_block, sums);
    check_launch();
}

// The values i < j (kProduct: i <= j) of a matrix, column by column, and back to both sides of it.
template <bool kProduct>
std::vector<double> packed(std::size_t n, const double* matrix) {
    std::vector<double> values;
    for (std::size_t j = 0; j < n; ++j)
        for (std::size_t i = 0; i < j + kProduct; ++i) values.push_back(matrix[i * n + j]);
    return values;
}
template <bool kProduct>
void unpack(const std::vector<double>& values, std::size_t n, double* matrix) {
    std::size_t at = 0;
    for (std::size_t j = 0; j < n; ++j)
        for (std::size_t i = 0; i < j + kProduct; ++i) matrix[i * n + j] = matrix[j * n + i] = values[at++];
}

// launch(rows, first block, blocks, sums, stream) writes `pairs` sums in F for every block; part and total
// hold as many values.
template <class F, class Launch>
Clients measure(const Rows& rows, std::size_t column, std::size_t pairs, double* part, double* total,
                Stream stream_number, Launch launch) {
    const std::size_t n = rows.n, d = rows.d();
    const DeviceGuard device(rows.pointers[0]);
    const auto stream = reinterpret_cast<cudaStream_t>(stream_number);
    const std::size_t all_blocks = (d + kSpan - 1) / kSpan;
    const std::size_t most = std::min({all_blocks, kMostBlocks, std::max<std::size_t>(kScratch / pairs, 1)});
    const std::size_t most_supers = most / kBlocksPerSuper + 2;
    Buffer<std::uint64_t> addresses(n * rows.pieces, stream);
    Buffer<std::int64_t> bounds(rows.pieces + 1, stream);
    Buffer<unsigned> bad(n, stream);
    Buffer<F> sums(most * pairs, stream);
    Buffer<double> found(most_supers * pairs, stream), device_part(pairs, stream),
        device_total(pairs, stream);
    std::vector<std::uint64_t> by_piece(n * rows.pieces);
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t k = 0; k < rows.pieces; ++k)
            by_piece[k * n + i] = rows.pointers[i * rows.pieces + k];
    addresses.set(by_piece.data());
    bounds.set(rows.bounds);
    bad.clear();
    device_part.set(part);
    device_total.set(total);
    const PiecedRows pieced{addresses.data(), bounds.data(), static_cast<unsigned>(n),
                            static_cast<unsigned>(rows.pieces), bad.data()};
    for (std::size_t b = 0; b < all_blocks;) {
        const std::size_t count = std::min(most, all_blocks - b);
        const std::size_t before = (column / kSpan + b) % kBlocksPerSuper;
        const auto supers = static_cast<unsigned>((before + count + kBlocksPerSuper - 1) / kBlocksPerSuper);
        launch(pieced, b, count, sums.data(), stream);
        TALLYSTICK_LAUNCH((add_kernel<F>), dim3(static_cast<unsigned>((pairs + kPairs - 1) / kPairs), supers),
                          kBlock, 0, stream, sums.data(), pairs, count, before, device_part.data(),
                          found.data());
        check_launch();
        const bool whole = b + count < all_blocks || d % kSpan == 0;
        const bool complete = whole && (before + count) % kBlocksPerSuper == 0;
        TALLYSTICK_LAUNCH((finish_kernel), device.grid(pairs, kBlock), kBlock, 0, stream, found.data(), pairs,
                          supers, complete, device_part.data(), device_total.data());
        check_launch();
        b += count;
    }
    device_part.get(part);
    device_total.get(total);
    std::vector<unsigned> marked(n);
    bad.get(marked.data());
    check(cudaStreamSynchronize(stream), "finish");
    Clients clients;
    for (std::size_t i = 0; i < n; ++i)
        if (marked[i]) clients.push_back(i);
    return clients;
}

template <class T, bool kProduct>
Clients pairs_of(const Rows& rows, std::size_t column, double* part, double* total, Stream stream) {
    const std::size_t n = rows.n, pairs = (kProduct ? n * (n + 1) : n * (n - 1)) / 2;
    std::vector<double> packed_part = packed<kProduct>(n, part), packed_total = packed<kProduct>(n, total);
    const Clients bad = measure<Summed<T, kProduct>>(
        rows, column, pairs, packed_part.data(), packed_total.data(), stream,
        [pairs](const PiecedRows& pieced, std::size_t first, std::size_t blocks, auto* sums,
                cudaStream_t on) { launch_sums<T, kProduct>(pieced, first, blocks, pairs, sums, on); });
    unpack<kProduct>(packed_part, n, part);
    unpack<kProduct>(packed_total, n, total);
    return bad;
}

template <class T, bool kProduct, bool kNorms, bool kOther>
Clients single_of(const Rows& rows, std::size_t row, std::size_t column, double* part, double* total,
                  Stream stream) {
    return measure<Summed<T, kProduct>>(
        rows, column, rows.n * (kNorms + kOther), part, total, stream,
        [row](const PiecedRows& pieced, std::size_t first, std::size_t blocks, auto* sums, cudaStream_t on) {
            launch_single<T, kProduct, kNorms, kOther>(pieced, row, first, blocks, sums, on);
        });
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

Clients distances(const Rows& rows, std::size_t column, double* part, double* total, Stream stream) {
    check_chunk(rows, "distances", column, 0);
    if (rows.d() == 0) return {};
    if (rows.n == 1) return nonfinite(rows, stream);
    return with_type(rows.dtype,
                     [&](auto x) { return pairs_of<decltype(x), false>(rows, column, part, total, stream); });
}

Clients products(const Rows& rows, std::size_t column, double* part, double* total, Stream stream) {
    check_chunk(rows, "products", column, 0);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype,
                     [&](auto x) { return pairs_of<decltype(x), true>(rows, column, part, total, stream); });
}

Clients norms(const Rows& rows, std::size_t column, double* part, double* total, Stream stream) {
    check_chunk(rows, "norms", column, 0);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) {
        return single_of<decltype(x), true, true, false>(rows, 0, column, part, total, stream);
    });
}

Clients distances_to(const Rows& rows, std::size_t row, std::size_t column, double* part, double* total,
                     Stream stream) {
    check_chunk(rows, "distances_to", column, row);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) {
        return single_of<decltype(x), false, false, true>(rows, row, column, part, total, stream);
    });
}

Clients products_with(const Rows& rows, std::size_t row, std::size_t column, double* part, double* total,
                      Stream stream) {
    check_chunk(rows, "products_with", column, row);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) {
        return single_of<decltype(x), true, true, true>(rows, row, column, part, total, stream);
    });
}

}  // namespace tallystick::cuda
