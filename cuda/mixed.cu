// Virtual clients, some columns of all of them at a time in device memory (a few MiB, mostly in L2), and a
// column rule over them. Sums as in csrc/mixed.h.
//
//   tables_kernel  32 columns x 64 rows per block: of 8 quads of clients at a time every subset's sum goes to
//                  shared memory (4 loads, 11 additions), then each thread adds one of 16 to each of its 8
//                  rows. Per column and row n / 4 float64 additions and reads of shared memory, which bound
//                  it.
//   lists_kernel   one thread per column and row, entry by entry, clients from the cache.
#include "mixed.cuh"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "columns.cuh"
#include "mix_plan.h"
#include "walk.cuh"

namespace tallystick::cuda {
namespace {

constexpr unsigned kWarp = 32, kRows = 8, kQuads = 8;  // columns, rows per thread, quads in shared memory

// ---- Device helpers ----

template <class T>
__device__ T narrow_clamped(double y) {
    const double largest = static_cast<double>(widen(from_key<T>(Format<T>::kLargest)));
    y = y < largest ? y : largest;
    return narrow<T>(y > -largest ? y : -largest);
}

template <class T>
__device__ double value(const TableRows& rows, unsigned i, std::size_t j) {
    return static_cast<double>(widen(rows.row<T>(i)[j]));
}

// ---- Kernels ----

// Rows of the plan that are summed from tables: columns [0, count) to tile, `width` columns a row.
template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    tables_kernel(TableRows rows, unsigned n, unsigned quads, unsigned tabled, const std::uint16_t* slots,
                  const double* scales, std::size_t count, T* tile, std::size_t width) {
    TALLYSTICK_SHARED(double, table, kQuads * 16 * kWarp);
    const unsigned lane = threadIdx.x % kWarp, own = threadIdx.x / kWarp;
    const std::size_t j = std::size_t{blockIdx.x} * kWarp + lane;
    const unsigned row = (blockIdx.y * (kBlock / kWarp) + own) * kRows;
    double sum[kRows] = {};
#pragma unroll 1
    for (unsigned first = 0; first < quads; first += kQuads) {
        const unsigned client = 4 * (first + own);
        double* const sums = table + own * 16 * kWarp + lane;
        double x[4] = {};
#pragma unroll
        for (unsigned k = 0; k < 4; ++k)
            if (client + k < n && j < count) x[k] = value<T>(rows, client + k, j);
        const double low[] = {0, x[0], x[1], x[0] + x[1]}, high[] = {0, x[2], x[3], x[2] + x[3]};
#pragma unroll
        for (unsigned k = 0; k < 16; ++k)
            sums[k * kWarp] = k % 4 == 0 ? high[k / 4] : k / 4 == 0 ? low[k % 4] : low[k % 4] + high[k / 4];
        __syncthreads();
        if (row < tabled) {
            const std::uint16_t* slot = slots + std::size_t{row} * quads + std::size_t{first} * kRows;
            const unsigned together = quads - first < kQuads ? quads - first : kQuads;
#pragma unroll 1
            for (unsigned q = 0; q < together; ++q, slot += kRows) {
#pragma unroll
                for (unsigned k = 0; k < kRows; ++k)
                    sum[k] += table[(q * 16 + slot[k] / (kSlot / kSlotUnit) % 16) * kWarp + lane];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (unsigned k = 0; k < kRows; ++k)
        if (row + k < tabled && j < count)
            tile[(row + k) * width + j] = narrow_clamped<T>(scales[row + k] * sum[k]);
}

// Those that are listed entry by entry: entries [first[l], first[l + 1]) of row l.
template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    lists_kernel(TableRows rows, const MixEntry* entries, const unsigned* first, const unsigned* equal,
                 std::size_t count, T* tile, std::size_t width) {
    const std::size_t j = first_column();
    if (j >= count) return;
    const unsigned l = blockIdx.y, last = first[l + 1];
    double sum = 0, scale = 1;
    if (equal[l]) {
        if (first[l] < last) scale = entries[first[l]].weight;
        for (unsigned e = first[l]; e < last;) {
            const unsigned quad = entries[e].client / 4;
            double half[2] = {0, 0};  // a member that is absent adds 0
            for (unsigned k = 0; k < 2; ++k)
                for (; e < last && entries[e].client / 2 == 2 * quad + k; ++e)
                    half[k] += value<T>(rows, entries[e].client, j);
            sum += half[0] + half[1];
        }
    } else {
        for (unsigned e = first[l]; e < last; ++e)
            sum = fused(entries[e].weight, value<T>(rows, entries[e].client, j), sum);
    }
    tile[l * width + j] = narrow_clamped<T>(scale * sum);
}

// ---- Launchers ----

constexpr std::size_t kTileValues = std::size_t{1} << 21;  // of virtual clients

Clients apply(const Rows& tile, const ColumnRule& rule, void* out, Stream stream) {
    switch (rule.kind) {
        case ColumnRule::Kind::median:
            return median(tile, rule.middle, out, stream);
        case ColumnRule::Kind::trimmed_mean:
            return trimmed_mean(tile, rule.f, out, stream);
        case ColumnRule::Kind::meamed:
            return meamed(tile, rule.f, out, stream);
        case ColumnRule::Kind::phocas:
            return phocas(tile, rule.f, out, stream);
        default:
            return majority(tile, out, stream);
    }
}

template <class T>
Clients mixed_of(const Rows& rows, const MixOwner& owner, const ColumnRule& rule, T* out, Stream stream) {
    const MixPlan& plan = owner.plan;
    Walk<T> walk(rows, stream);
    const std::size_t different = plan.tabled + plan.lists;
    const std::size_t width = std::min(std::max<std::size_t>(kTileValues / different / kWarp * kWarp, kBlock),
                                       (rows.d() + kWarp - 1) / kWarp * kWarp);
    Buffer<T> tile(different * width, walk.stream());
    Buffer<std::uint16_t> slots(std::max<std::size_t>((plan.tabled + 7) / 8 * 8 * plan.quads, 1),
                                walk.stream());
    Buffer<double> scales(std::max<std::size_t>(plan.tabled, 1), walk.stream());
    std::vector<unsigned> first{0}, equal;
    std::vector<MixEntry> entries;
    for (std::size_t l = 0; l < plan.lists; ++l) {
        entries.insert(entries.end(), plan.list[l].first, plan.list[l].last);
        first.push_back(static_cast<unsigned>(entries.size()));
        equal.push_back(plan.list[l].equal);
    }
    entries.resize(std::max<std::size_t>(entries.size(), 1));
    equal.resize(std::max<std::size_t>(equal.size(), 1));
    Buffer<MixEntry> device_entries(entries.size(), walk.stream());
    Buffer<unsigned> device_first(first.size(), walk.stream()), device_equal(equal.size(), walk.stream());
    if (plan.tabled > 0) {
        slots.set(plan.slots);
        scales.set(plan.scales);
    }
    device_entries.set(entries.data());
    device_first.set(first.data());
    device_equal.set(equal.data());
    std::vector<std::uint64_t> pointers;
    for (const std::size_t r : owner.row_of)
        pointers.push_back(reinterpret_cast<std::uint64_t>(tile.data() + r * width));
    return walk.each([&](const Columns& c) {
        for (std::size_t at = 0; at < c.count; at += width) {
            const std::size_t count = std::min(width, c.count - at);
            const TableRows in{c.table.address, c.table.first + at};
            const auto by_warp = static_cast<unsigned>((count + kWarp - 1) / kWarp);
            const auto by_block = static_cast<unsigned>((count + kBlock - 1) / kBlock);
            if (plan.tabled > 0) {
                constexpr std::size_t kTogether = kBlock / kWarp * kRows;
                const auto groups = static_cast<unsigned>((plan.tabled + kTogether - 1) / kTogether);
                TALLYSTICK_LAUNCH((tables_kernel<T>), dim3(by_warp, groups), kBlock, 0, walk.stream(), in,
                                  static_cast<unsigned>(plan.n), static_cast<unsigned>(plan.quads),
                                  static_cast<unsigned>(plan.tabled), slots.data(), scales.data(), count,
                                  tile.data(), width);
                check_launch();
            }
            if (plan.lists > 0) {
                TALLYSTICK_LAUNCH((lists_kernel<T>), dim3(by_block, static_cast<unsigned>(plan.lists)),
                                  kBlock, 0, walk.stream(), in, device_entries.data(), device_first.data(),
                                  device_equal.data(), count, tile.data() + plan.tabled * width, width);
                check_launch();
            }
            const std::int64_t bounds[] = {0, static_cast<std::int64_t>(count)};
            apply({pointers.data(), bounds, pointers.size(), 1, rows.dtype}, rule, out + c.at + at, stream);
        }
    });
}

}  // namespace

Clients mixed(const Rows& rows, const Matrix& matrix, const ColumnRule& rule, void* out, Stream stream) {
    check_column_rule(rule, matrix.m);
    check_arguments(rows, out);
    if (rows.d() == 0) return {};
    const Clients bad = nonfinite(rows, stream);
    if (!bad.empty()) return bad;
    const MixOwner owner(matrix, rows.n);
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return mixed_of<T>(rows, owner, rule, static_cast<T*>(out), stream);
    });
}

}  // namespace tallystick::cuda
