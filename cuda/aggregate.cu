// Mean, median and trimmed mean over clients, one thread per column. Each value is read once: per column
// n * sizeof(T) bytes read, sizeof(T) written; 32 columns of one row make one request. The values of a column
// that was not certain, or held a NaN, are read again from the cache.
//
// Correct rounding, with the tiers of csrc/exact.h: 1 and 2 in the main kernel; a column that needs tier 3 is
// marked in a bitmap, and a second kernel, which has the registers for it, works off the marks (hardly ever
// any). Selection: up to kNetwork rows in registers, by the networks of csrc/order.h; more rows, by bisection
// over the keys of values, reading the column once per bit of the format. No local memory anywhere:
// cuda/gate.sh checks that.
#include "aggregate.cuh"

#include <stdexcept>
#include <utility>
#include <vector>

#include "dev.h"
#include "exact.h"
#include "memory.cuh"
#if defined(__CUDACC__)
#pragma nv_diag_suppress 186  // order.h compares with a first rank that may be 0
#endif
#include "order.h"
#include "rounding.h"
#include "weights.h"

namespace tallystick::cuda {
namespace {

constexpr unsigned kBlock = 256;
// Blocks of the selection kernels, and how many ptxas must leave room for: left alone it spills some bytes
// for a block more.
constexpr unsigned block_of(std::size_t network) { return network <= 32 ? kBlock : kBlock / 2; }
constexpr unsigned blocks_of(std::size_t network) { return network <= 32 ? 1 : network == 64 ? 2 : 0; }
constexpr unsigned kInline = 128;  // rows whose addresses travel as kernel arguments

// ---- Device helpers ----

// Where the columns of each client are: in the arguments of the kernel, or in a table in device memory.
struct InlineRows {
    std::uint64_t address[kInline];

    template <class T>
    TALLYSTICK_HD const T* row(unsigned i) const {
        return reinterpret_cast<const T*>(address[i]);
    }
};
struct TableRows {
    const std::uint64_t* address;
    std::size_t first;  // column, counted from the addresses

    template <class T>
    TALLYSTICK_HD const T* row(unsigned i) const {
        return reinterpret_cast<const T*>(address[i]) + first;
    }
};

// What kernels tell the host and each other.
struct Report {
    unsigned* bad;      // by client: not 0 where a NaN or infinity was seen
    unsigned* pending;  // a bit for every column of the launch that needs tier 3
    unsigned* marks;    // [0]: whether there ever was any
};

__device__ inline void raise(unsigned* word, unsigned bits) {
    if ((load_relaxed(word) & bits) != bits) atomicOr(word, bits);
}

__device__ inline void mark(const Report& report, std::size_t j) {
    raise(report.marks, 1);
    atomicOr(report.pending + j / 32, 1u << j % 32);
}

template <class V>
__device__ inline bool finite(V x) {
    return x - x == 0;
}

// Reports the clients whose value in column j is a NaN or infinity; true if there are any.
template <class T, class RowsAt>
__device__ bool blame(const RowsAt& rows, unsigned n, std::size_t j, const Report& report) {
    bool any = false;
    for (unsigned i = 0; i < n; ++i) {
        if (finite(widen(rows.template row<T>(i)[j]))) continue;
        raise(report.bad + i, 1);
        any = true;
    }
    return any;
}

__device__ inline std::size_t first_column() { return std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ inline std::size_t all_threads() { return std::size_t{gridDim.x} * blockDim.x; }

// The terms of a mean, as exact.h wants them: n values of one column and their weights.
template <class T, class RowsAt, bool kWeighted>
struct Terms {
    const RowsAt& rows;
    const double* weights;
    std::size_t j;

    TALLYSTICK_HD double weight(std::size_t i) const {
        if constexpr (kWeighted) return weights[i];
        return 1.0;
    }
    TALLYSTICK_HD auto raw(unsigned i) const { return widen(rows.template row<T>(i)[j]); }
    TALLYSTICK_HD double value(std::size_t i) const {
        return static_cast<double>(raw(static_cast<unsigned>(i)));
    }
};

// What a trimmed mean keeps of a column: the values between two keys, and so many of those equal to either.
// The count stands as weight of the first such value; the others weigh nothing.
template <class T>
struct Kept {
    TableRows rows;
    std::size_t j;
    std::int64_t low, high;
    unsigned low_at, high_at;
    unsigned low_count, high_count;

    TALLYSTICK_HD T raw(std::size_t i) const { return rows.row<T>(static_cast<unsigned>(i))[j]; }
    TALLYSTICK_HD double value(std::size_t i) const { return static_cast<double>(widen(raw(i))); }
    TALLYSTICK_HD double weight(std::size_t i) const {
        const std::int64_t key = key_of(raw(i));
        const unsigned ends = i == low_at ? low_count : i == high_at ? high_count : 0;
        return key > low && key < high ? 1.0 : static_cast<double>(ends);
    }
};

template <class T>
constexpr bool kIsDouble = sizeof(T) == 8;

// Tier 2, given the sum and max|x|. True: both ends of b are the mean. usable: the mean lies in b.
template <class T>
__device__ bool settle(LongSum sum, double largest, const MeanScale& scale, Bracket<T>& b, bool& usable) {
    sum.lost += largest * scale.inexact;
    b = bracket<T>(divide(sum, scale));
    const bool sane = finite(sum.high);
    usable = sane && in_range<T>(largest);
    if constexpr (kIsDouble<T>) {
        if (sane && largest == 0) {
            b = {0.0, 0.0};
            return true;
        }
    }
    return usable && same(b.low, b.high);
}

struct Sum {
    LongSum sum;
    double largest = 0;
};
template <bool kWeighted, class Terms>
__device__ Sum long_sum(const Terms& terms, unsigned n) {
    Sum s;
    for (unsigned i = 0; i < n; ++i) {
        const double w = kWeighted ? terms.weight(i) : 1.0;
        if (kWeighted && w == 0) continue;
        const double x = terms.value(i), size = magnitude(x);
        s.largest = size > s.largest ? size : s.largest;
        if constexpr (kWeighted) {
            add(s.sum, w, x);
        } else {
            add(s.sum, x);
        }
    }
    return s;
}

// All that can follow tier 1: 2, then 3.
template <class T, bool kWeighted, class Terms>
__device__ T resolve(const Terms& terms, unsigned n, const MeanScale& scale) {
    const Sum s = long_sum<kWeighted>(terms, n);
    Bracket<T> b;
    bool usable;
    if (settle(s.sum, s.largest, scale, b, usable)) return b.low;
    const std::int64_t limit = key_of(narrow<T>(s.largest));
    std::int64_t low = -limit, high = limit;
    if (usable) {
        const std::int64_t from = key_of(b.low), to = key_of(b.high);
        low = from < low ? low : from;
        high = to > high ? high : to;
    }
    return exact_mean<T>(terms, n, low, high);
}

// Calls body(j) for every marked column, and clears the marks.
template <class Body>
__device__ void for_marked(const Report& report, std::size_t count, Body body) {
    if (load_relaxed(report.marks) == 0) return;
    for (std::size_t word = first_column(); word < (count + 31) / 32; word += all_threads()) {
        unsigned bits = report.pending[word];
        if (bits == 0) continue;
        report.pending[word] = 0;
        for (; bits; bits &= bits - 1)
            body(word * 32 + static_cast<unsigned>(__ffs(static_cast<int>(bits)) - 1));
    }
}

__device__ inline float lower(float a, float b) {
    return fminf(a, b);
}  // one instruction each; NaN is caught apart
__device__ inline float upper(float a, float b) { return fmaxf(a, b); }
__device__ inline double lower(double a, double b) { return b < a ? b : a; }
__device__ inline double upper(double a, double b) { return b < a ? a : b; }

// 0 stays 0 as long as all x are finite.
__device__ inline float taint(float poison, float x) { return fmaf(x, 0.0f, poison); }
__device__ inline double taint(double poison, double x) { return fused(x, 0.0, poison); }

template <class Network, std::size_t kAt, class V, std::size_t N>
__device__ __forceinline__ void compare(V (&v)[N]) {
    constexpr Comparator c = Network::kTable.net[kAt];
    const V a = v[c.a], b = v[c.b];
    if constexpr (c.keep_low) v[c.a] = lower(a, b);
    if constexpr (c.keep_high) v[c.b] = upper(a, b);
}
template <class Network, class V, std::size_t N, std::size_t... kAt>
__device__ __forceinline__ void run(V (&v)[N], std::index_sequence<kAt...>) {
    (compare<Network, kAt>(v), ...);
}
// Constant indices only, so that v stays in registers.
template <class Network, class V, std::size_t N>
__device__ __forceinline__ void select(V (&v)[N]) {
    run<Network>(v, std::make_index_sequence<Network::kTable.size>());
}

// Column j into v[0, n), then `below` times -infinity, then +infinity. False if a value was a NaN or
// infinity.
template <class T, class V, std::size_t N>
__device__ __forceinline__ bool load(const InlineRows& rows, unsigned n, std::size_t j, unsigned below,
                                     V (&v)[N]) {
    constexpr V kInfinity = static_cast<V>(__builtin_huge_val());
    V poison = 0;  // stays 0 while all are finite
#pragma unroll
    for (unsigned i = 0; i < N; ++i) {
        if (i < n) {
            v[i] = widen(rows.row<T>(i)[j]);
            poison = taint(poison, v[i]);
        } else {
            v[i] = i - n < below ? -kInfinity : kInfinity;
        }
    }
    return poison == 0;
}

// Key of the value of rank k (from 0) in column j: the smallest that more than k values do not exceed.
template <class T>
__device__ std::int64_t key_of_rank(const TableRows& rows, unsigned n, std::size_t j, unsigned k) {
    std::int64_t low = -Format<T>::kLargest, high = Format<T>::kLargest;
    while (low < high) {
        const std::uint64_t width = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
        const std::int64_t middle = low + static_cast<std::int64_t>(width >> 1);
        unsigned up_to = 0;
        for (unsigned i = 0; i < n; ++i) up_to += key_of(rows.row<T>(i)[j]) <= middle;
        if (up_to > k) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

template <class T>
__device__ Kept<T> keep(const TableRows& rows, unsigned n, std::size_t j, unsigned f) {
    Kept<T> kept{rows, j, key_of_rank<T>(rows, n, j, f), key_of_rank<T>(rows, n, j, n - f - 1), 0, 0, 0, 0};
    unsigned up_to_low = 0, below_high = 0;
    for (unsigned i = n; i-- > 0;) {
        const std::int64_t key = key_of(kept.raw(i));
        up_to_low += key <= kept.low;
        below_high += key < kept.high;
        kept.low_at = key == kept.low ? i : kept.low_at;
        kept.high_at = key == kept.high ? i : kept.high_at;
    }
    kept.low_count = up_to_low - f;
    kept.high_count = n - f - below_high;
    return kept;
}

// ---- Kernels ----

template <class T, bool kWeighted, class RowsAt>
__global__ void __launch_bounds__(kBlock, 1)
    mean_kernel(const __grid_constant__ RowsAt rows, unsigned n, const double* weights,
                const __grid_constant__ MeanScale scale, std::size_t count, T* out, Report report) {
    for (std::size_t j = first_column(); j < count; j += all_threads()) {
        const Terms<T, RowsAt, kWeighted> terms{rows, weights, j};
        bool certain;
        T result;
        if constexpr (kIsDouble<T>) {
            LongSum sum;
            double largest = 0;
#pragma unroll 4
            for (unsigned i = 0; i < n; ++i) {
                const double x = terms.raw(i);
                largest = upper(largest, magnitude(x));
                if constexpr (kWeighted) {
                    add_unchecked(sum, weights[i], x);
                } else {
                    add_unchecked(sum, x);
                }
            }
            sum.lost = scale.step_dd * scale.total * largest;
            Bracket<T> b;
            bool usable;
            certain = settle(sum, largest, scale, b, usable);
            result = b.low;
        } else {
            double sum = 0;
            float largest = 0;
#pragma unroll 8
            for (unsigned i = 0; i < n; ++i) {
                const float x = terms.raw(i);
                largest = fmaxf(largest, fabsf(x));
                if constexpr (kWeighted) {
                    sum = fused(weights[i], static_cast<double>(x), sum);
                } else {
                    sum += static_cast<double>(x);
                }
            }
            certain = certify(sum, static_cast<double>(largest), scale, result) && finite(sum);
        }
        if (!certain && !blame<T>(rows, n, j, report)) {
            const Sum s = long_sum<kWeighted>(terms, n);
            Bracket<T> b;
            bool usable;
            if (!settle(s.sum, s.largest, scale, b, usable)) mark(report, j);
            result = b.low;
        }
        out[j] = result;
    }
}

template <class T, bool kWeighted>
__global__ void __launch_bounds__(kBlock, 1)
    exact_mean_kernel(TableRows rows, unsigned n, const double* weights,
                      const __grid_constant__ MeanScale scale, std::size_t count, T* out, Report report) {
    for_marked(report, count, [&](std::size_t j) {
        out[j] = resolve<T, kWeighted>(Terms<T, TableRows, kWeighted>{rows, weights, j}, n, scale);
    });
}

template <class T>
__device__ T middle_value(double low, double high, Middle middle) {
    if (middle == Middle::mid) return middle_of<T>(low, high);
    return narrow<T>(middle == Middle::lower ? low : high);
}

// As many infinities below as above (one more above if the sum is odd) keep the middle on wires N/2 - 1 and
// N/2.
template <class T, std::size_t N>
__global__ void __launch_bounds__(block_of(N), blocks_of(N))
    median_kernel(const __grid_constant__ InlineRows rows, unsigned n, Middle middle, std::size_t count,
                  T* out, Report report) {
    using V = decltype(widen(T{}));
    for (std::size_t j = first_column(); j < count; j += all_threads()) {
        V v[N];
        const bool fine = load<T>(rows, n, j, (static_cast<unsigned>(N) - n) / 2, v);
        select<Selection<N, N / 2 - 1, N / 2 + 1, true>>(v);
        const V low = v[N / 2 - 1], high = n % 2 ? low : v[N / 2];
        out[j] = middle_value<T>(low, high, middle);
        if (!fine) blame<T>(rows, n, j, report);
    }
}

template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    wide_median_kernel(TableRows rows, unsigned n, Middle middle, std::size_t count, T* out, Report report) {
    for (std::size_t j = first_column(); j < count; j += all_threads()) {
        if (blame<T>(rows, n, j, report)) continue;
        const unsigned rank = (n - 1) / 2;
        const std::int64_t low = key_of_rank<T>(rows, n, j, rank);
        std::int64_t next = Format<T>::kLargest;
        unsigned up_to = 0;
        for (unsigned i = 0; i < n; ++i) {
            const std::int64_t key = key_of(rows.row<T>(i)[j]);
            up_to += key <= low;
            next = key > low && key < next ? key : next;
        }
        const std::int64_t high = n / 2 == rank || up_to > n / 2 ? low : next;
        out[j] = middle_value<T>(static_cast<double>(widen(from_key<T>(low))),
                                 static_cast<double>(widen(from_key<T>(high))), middle);
    }
}

template <class T, std::size_t N>
__global__ void __launch_bounds__(block_of(N), blocks_of(N))
    trimmed_mean_kernel(const __grid_constant__ InlineRows rows, unsigned n, unsigned f,
                        const __grid_constant__ MeanScale scale, std::size_t count, T* out, Report report) {
    using V = decltype(widen(T{}));
    for (std::size_t j = first_column(); j < count; j += all_threads()) {
        V v[N];
        const bool fine = load<T>(rows, n, j, 0, v);
        select<Selection<N, 0, N, true>>(v);
        LongSum sum;
        double largest = 0;
#pragma unroll
        for (unsigned i = 0; i < N; ++i) {
            if (i < f || i >= n - f) continue;
            const double x = static_cast<double>(v[i]);
            largest = upper(largest, magnitude(x));
            if constexpr (kIsDouble<T>) {
                add_unchecked(sum, x);
            } else {
                sum.high += x;
            }
        }
        T result;
        Bracket<T> b;
        bool usable, certain;
        if constexpr (kIsDouble<T>) {
            sum.lost = scale.step_dd * scale.total * largest;
            certain = settle(sum, largest, scale, b, usable);
            result = b.low;
        } else {
            certain = certify(sum.high, largest, scale, result);
        }
        if (!fine) {
            blame<T>(rows, n, j, report);
        } else if (!certain) {
            LongSum again;
#pragma unroll
            for (unsigned i = 0; i < N; ++i)
                if (i >= f && i < n - f) add(again, static_cast<double>(v[i]));
            if (!settle(again, largest, scale, b, usable)) mark(report, j);
            result = b.low;
        }
        out[j] = result;
    }
}

template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    wide_trimmed_mean_kernel(TableRows rows, unsigned n, unsigned f, const __grid_constant__ MeanScale scale,
                             std::size_t count, T* out, Report report) {
    for (std::size_t j = first_column(); j < count; j += all_threads()) {
        if (blame<T>(rows, n, j, report)) continue;
        const Kept<T> kept = keep<T>(rows, n, j, f);
        T result = from_key<T>(kept.low);
        if (kept.low != kept.high) {
            const Sum s = long_sum<true>(kept, n);
            Bracket<T> b;
            bool usable;
            if (!settle(s.sum, s.largest, scale, b, usable)) mark(report, j);
            result = b.low;
        }
        out[j] = result;
    }
}

template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    exact_trimmed_mean_kernel(TableRows rows, unsigned n, unsigned f, const __grid_constant__ MeanScale scale,
                              std::size_t count, T* out, Report report) {
    for_marked(report, count,
               [&](std::size_t j) { out[j] = resolve<T, true>(keep<T>(rows, n, j, f), n, scale); });
}

template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    nonfinite_kernel(TableRows rows, unsigned n, std::size_t count, Report report) {
    for (std::size_t j = first_column(); j < count; j += all_threads()) blame<T>(rows, n, j, report);
}

// ---- Launchers ----

void check_launch() { check(cudaGetLastError(), "launch a kernel"); }

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

// The largest network: float64 values take two registers each.
template <class T>
constexpr std::size_t kNetwork = kIsDouble<T> ? kInline / 2 : kInline;

// Calls f with the size of the smallest network that takes n rows of T, a power of two; false if there is
// none.
template <class T, std::size_t N = 8, class F>
bool with_network(std::size_t n, F f) {
    if (n <= N) {
        f(std::integral_constant<std::size_t, N>{});
        return true;
    }
    if constexpr (N < kNetwork<T>) return with_network<T, 2 * N>(n, f);
    return false;
}

template <class T, bool kWeighted>
Clients mean_of(const Rows& rows, const double* weights, const MeanScale& scale, T* out, Stream stream) {
    Walk<T> walk(rows, stream);
    const auto n = static_cast<unsigned>(rows.n);
    Buffer<double> w(kWeighted ? rows.n : 1, walk.stream());
    if (kWeighted) w.set(weights);
    return walk.each([&](const Columns& c) {
        const unsigned grid = walk.grid(c.count, kBlock);
        if (rows.n <= kInline) {
            TALLYSTICK_LAUNCH((mean_kernel<T, kWeighted, InlineRows>), grid, kBlock, 0, walk.stream(),
                              c.inlined, n, w.data(), scale, c.count, out + c.at, walk.report());
        } else {
            TALLYSTICK_LAUNCH((mean_kernel<T, kWeighted, TableRows>), grid, kBlock, 0, walk.stream(), c.table,
                              n, w.data(), scale, c.count, out + c.at, walk.report());
        }
        check_launch();
        TALLYSTICK_LAUNCH((exact_mean_kernel<T, kWeighted>), walk.grid((c.count + 31) / 32, kBlock), kBlock,
                          0, walk.stream(), c.table, n, w.data(), scale, c.count, out + c.at, walk.report());
        check_launch();
    });
}

template <class T>
Clients median_of(const Rows& rows, Middle middle, T* out, Stream stream) {
    Walk<T> walk(rows, stream);
    const auto n = static_cast<unsigned>(rows.n);
    return walk.each([&](const Columns& c) {
        const bool narrow_enough = with_network<T>(rows.n, [&](auto size) {
            constexpr std::size_t N = size;
            TALLYSTICK_LAUNCH((median_kernel<T, N>), walk.grid(c.count, block_of(N)), block_of(N), 0,
                              walk.stream(), c.inlined, n, middle, c.count, out + c.at, walk.report());
        });
        if (!narrow_enough)
            TALLYSTICK_LAUNCH((wide_median_kernel<T>), walk.grid(c.count, kBlock), kBlock, 0, walk.stream(),
                              c.table, n, middle, c.count, out + c.at, walk.report());
        check_launch();
    });
}

template <class T>
Clients trimmed_mean_of(const Rows& rows, std::size_t f, const MeanScale& scale, T* out, Stream stream) {
    Walk<T> walk(rows, stream);
    const auto n = static_cast<unsigned>(rows.n), trimmed = static_cast<unsigned>(f);
    return walk.each([&](const Columns& c) {
        const bool narrow_enough = with_network<T>(rows.n, [&](auto size) {
            constexpr std::size_t N = size;
            TALLYSTICK_LAUNCH((trimmed_mean_kernel<T, N>), walk.grid(c.count, block_of(N)), block_of(N), 0,
                              walk.stream(), c.inlined, n, trimmed, scale, c.count, out + c.at,
                              walk.report());
        });
        if (!narrow_enough)
            TALLYSTICK_LAUNCH((wide_trimmed_mean_kernel<T>), walk.grid(c.count, kBlock), kBlock, 0,
                              walk.stream(), c.table, n, trimmed, scale, c.count, out + c.at, walk.report());
        check_launch();
        TALLYSTICK_LAUNCH((exact_trimmed_mean_kernel<T>), walk.grid((c.count + 31) / 32, kBlock), kBlock, 0,
                          walk.stream(), c.table, n, trimmed, scale, c.count, out + c.at, walk.report());
        check_launch();
    });
}

template <class T>
Clients nonfinite_of(const Rows& rows, Stream stream) {
    Walk<T> walk(rows, stream);
    return walk.each([&](const Columns& c) {
        TALLYSTICK_LAUNCH((nonfinite_kernel<T>), walk.grid(c.count, kBlock), kBlock, 0, walk.stream(),
                          c.table, static_cast<unsigned>(rows.n), c.count, walk.report());
        check_launch();
    });
}

void check_arguments(const Rows& rows, const void* out) {
    if (reinterpret_cast<std::uintptr_t>(out) % size_of(rows.dtype))
        throw std::invalid_argument("out: an address aligned to the dtype expected");
}

}  // namespace

Clients mean(const Rows& rows, const double* weights, void* out, Stream stream) {
    check_arguments(rows, out);
    if (rows.d() == 0) return {};
    std::vector<double> scaled;
    const MeanArguments a = mean_arguments(weights, rows.n, rows.dtype == Dtype::float64, scaled);
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        if (a.weights) return mean_of<T, true>(rows, a.weights, a.scale, static_cast<T*>(out), stream);
        return mean_of<T, false>(rows, nullptr, a.scale, static_cast<T*>(out), stream);
    });
}

Clients median(const Rows& rows, Middle middle, void* out, Stream stream) {
    check_arguments(rows, out);
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return median_of<T>(rows, middle, static_cast<T*>(out), stream);
    });
}

Clients trimmed_mean(const Rows& rows, std::size_t f, void* out, Stream stream) {
    if (2 * f >= rows.n)
        throw std::invalid_argument("trimmed_mean: 2f < " + std::to_string(rows.n) +
                                    " clients expected, got f = " + std::to_string(f));
    if (f == 0) return mean(rows, nullptr, out, stream);
    check_arguments(rows, out);
    if (rows.d() == 0) return {};
    std::vector<double> none;
    const MeanArguments a = mean_arguments(nullptr, rows.n - 2 * f, rows.dtype == Dtype::float64, none);
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return trimmed_mean_of<T>(rows, f, a.scale, static_cast<T*>(out), stream);
    });
}

Clients nonfinite(const Rows& rows, Stream stream) {
    if (rows.d() == 0) return {};
    return with_type(rows.dtype, [&](auto x) { return nonfinite_of<decltype(x)>(rows, stream); });
}

#if TALLYSTICK_EMULATED
int device_count(std::string& reason) {
    reason = "emulated on the CPU (TALLYSTICK_CUDA=EMULATE): for tests";
    return 1;
}
#else
int device_count(std::string& reason) {
    int count = 0, driver = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) return count;
    cudaGetLastError();  // or the next launch would report it
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        reason = "there is no NVIDIA driver on this machine";
    } else if (error == cudaErrorInsufficientDriver) {
        reason = "the NVIDIA driver is for CUDA " + std::to_string(driver / 1000) + "." +
                 std::to_string(driver % 1000 / 10) + ", older than this build's " +
                 std::to_string(CUDART_VERSION / 1000);
    } else {
        reason = std::string("CUDA reports no device: ") + cudaGetErrorString(error);
    }
    return 0;
}
#endif

bool emulated() { return TALLYSTICK_EMULATED; }

}  // namespace tallystick::cuda
