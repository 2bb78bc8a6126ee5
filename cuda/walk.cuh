// The host's part of every function over rows: runs of columns for the kernels, and who was found not finite.
#pragma once
#include <algorithm>  // for min, max
#include <stdexcept>  // for invalid_argument
#include <vector>

#include "aggregate.cuh"
#include "columns.cuh"
#include "memory.cuh"

namespace tallystick::cuda {

inline void check_launch() { check(cudaGetLastError(), "launch a kernel"); }

// A run of columns of one piece, its rows aligned to the type.
struct Columns {
    InlineRows inlined;  // the first kInline rows, the first column added in
    TableRows table;
    std::size_t at, count;  // in the whole of the columns
};

// Goes over all columns in such runs and collects who had a NaN or infinity.
template <class T>
class Walk {
  public:
    Walk(const Rows& rows, Stream stream)
        : rows_(rows),
          device_(rows.pointers[0]),
          stream_(reinterpret_cast<cudaStream_t>(stream)),
          table_(rows.n * rows.pieces, stream_),
          bad_(rows.n, stream_),
          pending_((longest_run(rows) + 31) / 32, stream_),
          marks_(1, stream_) {
        std::vector<std::uint64_t> by_piece(rows.n * rows.pieces);
        for (std::size_t i = 0; i < rows.n; ++i)
            for (std::size_t k = 0; k < rows.pieces; ++k)
                by_piece[k * rows.n + i] = rows.pointers[i * rows.pieces + k];
        table_.set(by_piece.data());
        bad_.clear();
        pending_.clear();
        marks_.clear();
    }

    cudaStream_t stream() const { return stream_; }
    Report report() const { return {bad_.data(), pending_.data(), marks_.data()}; }
    unsigned grid(std::size_t threads, unsigned block) const { return device_.grid(threads, block); }

    // Calls launch for every run of columns.
    template <class Launch>
    Clients each(Launch launch) {
        for (std::size_t k = 0; k < rows_.pieces; ++k)
            aligned(k) ? in_place(k, launch) : through_copy(k, launch);
        std::vector<unsigned> bad(rows_.n);
        bad_.get(bad.data());
        check(cudaStreamSynchronize(stream_), "finish");
        Clients clients;
        for (std::size_t i = 0; i < rows_.n; ++i)
            if (bad[i]) clients.push_back(i);
        return clients;
    }

  private:
    static constexpr std::size_t kRun = std::size_t{1} << 26;     // columns per launch: 8 MiB of marks
    static constexpr std::size_t kCopied = std::size_t{1} << 16;  // columns per launch where rows are copied

    static std::size_t longest_run(const Rows& rows) {
        std::size_t longest = 1;
        for (std::size_t k = 0; k < rows.pieces; ++k)
            longest = std::max(longest, static_cast<std::size_t>(rows.bounds[k + 1] - rows.bounds[k]));
        return std::min(longest, kRun);
    }

    std::uint64_t address(std::size_t i, std::size_t k) const { return rows_.pointers[i * rows_.pieces + k]; }
    std::size_t bound(std::size_t k) const { return static_cast<std::size_t>(rows_.bounds[k]); }

    bool aligned(std::size_t k) const {
        for (std::size_t i = 0; i < rows_.n; ++i)
            if (address(i, k) % sizeof(T)) return false;
        return true;
    }

    template <class Launch>
    void in_place(std::size_t k, Launch& launch) {
        for (std::size_t at = bound(k); at < bound(k + 1); at += kRun) {
            const std::size_t done = at - bound(k);
            Columns c{{}, {table_.data() + k * rows_.n, done}, at, std::min(kRun, bound(k + 1) - at)};
            for (unsigned i = 0; i < rows_.n && i < kInline; ++i)
                c.inlined.address[i] = address(i, k) + done * sizeof(T);
            launch(c);
        }
    }

    // Rows that do not stand on a multiple of sizeof(T): through an aligned copy of so many columns at a
    // time.
    template <class Launch>
    void through_copy(std::size_t k, Launch& launch) {
        const std::size_t width = std::min(kCopied, bound(k + 1) - bound(k));
        Buffer<T> copy(rows_.n * width, stream_);
        Buffer<std::uint64_t> table(rows_.n, stream_);
        std::vector<std::uint64_t> to(rows_.n);
        for (std::size_t i = 0; i < rows_.n; ++i)
            to[i] = reinterpret_cast<std::uint64_t>(copy.data() + i * width);
        table.set(to.data());
        for (std::size_t at = bound(k); at < bound(k + 1); at += width) {
            Columns c{{}, {table.data(), 0}, at, std::min(width, bound(k + 1) - at)};
            for (unsigned i = 0; i < rows_.n; ++i) {
                const std::uint64_t from = address(i, k) + (at - bound(k)) * sizeof(T);
                check(cudaMemcpyAsync(reinterpret_cast<void*>(to[i]), reinterpret_cast<const void*>(from),
                                      c.count * sizeof(T), cudaMemcpyDeviceToDevice, stream_),
                      "copy rows");
                if (i < kInline) c.inlined.address[i] = to[i];
            }
            launch(c);
        }
    }

    const Rows& rows_;
    const DeviceGuard device_;  // before the buffers, which belong to it
    const cudaStream_t stream_;
    Buffer<std::uint64_t> table_;
    Buffer<unsigned> bad_, pending_, marks_;
};

// Calls f with a T of the dtype.
template <class F>
Clients with_type(Dtype dtype, F f) {
    switch (dtype) {
        case Dtype::float32:
            return f(float{});
        case Dtype::float64:
            return f(double{});
        case Dtype::float16:
            return f(Half{});
        default:
            return f(Brain{});
    }
}

inline void check_arguments(const Rows& rows, const void* out) {
    if (reinterpret_cast<std::uintptr_t>(out) % size_of(rows.dtype))
        throw std::invalid_argument("out: an address aligned to the dtype expected");
}

}  // namespace tallystick::cuda
