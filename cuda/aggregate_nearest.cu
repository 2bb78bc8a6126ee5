// Means of the values nearest to a center over clients, one thread per column. Up to kSorted rows are sorted
// in registers and then put into shared memory, where any rank is at hand; of more, each rank that matters is
// found by bisection. Per column n * sizeof(T) bytes read, sizeof(T) written. Rounding as in aggregate.cu.
//
// Of sorted values, the n - f nearest have consecutive ranks. They start at rank s, the number of ranks r < f
// at which rank r + n - f is nearer than rank r: first those that are, then those that are not.
#include <stdexcept>
#include <string>
#include <vector>

#include "aggregate.cuh"
#include "kept.cuh"
#include "select.cuh"
#include "walk.cuh"
#include "weights.h"

namespace tallystick::cuda {
namespace {

enum class Center { median, trimmed_mean };

struct Nearest {
    unsigned n, f;
    Center center;
    MeanScale trimmed, kept;  // of n - 2f and of n - f values
};

// ---- Sorted columns in shared memory ----

constexpr std::size_t kSharedBytes = 32 * 1024;  // of a block: two fit where there are 64 KiB

template <class V>
constexpr unsigned threads_of(std::size_t network) {
    const std::size_t fit = kSharedBytes / (network * sizeof(V));
    return fit < block_of(network) ? static_cast<unsigned>(fit) : block_of(network);
}

// The largest network here: with what follows it, that of 128 rows spills on some targets.
constexpr std::size_t kSorted = kInline / 2;

// One of kThreads columns that stand side by side.
template <class V, unsigned kThreads>
struct Ranks {
    const V* first;

    __device__ double value(unsigned rank) const { return static_cast<double>(first[rank * kThreads]); }
};

// The mean of the ranks from, from + 1, ...: `count` of them. False: this takes tier 3.
template <class T, class Ranks>
__device__ bool ranks_mean(const Ranks& ranks, unsigned from, unsigned count, const MeanScale& scale,
                           T& out) {
    const unsigned end = from + count;
    const double largest = upper(magnitude(ranks.value(from)), magnitude(ranks.value(end - 1)));
    LongSum sum;
#pragma unroll 4
    for (unsigned rank = from; rank < end; ++rank) {
        if constexpr (kIsDouble<T>) {
            add_unchecked(sum, ranks.value(rank));
        } else {
            sum.high += ranks.value(rank);
        }
    }
    Bracket<T> b;
    bool usable, certain;
    if constexpr (kIsDouble<T>) {
        sum.lost = scale.step_dd * scale.total * largest;
        certain = settle(sum, largest, scale, b, usable);
        out = b.low;
    } else {
        certain = certify(sum.high, largest, scale, out);
    }
    if (!certain) {
        LongSum again;
        for (unsigned rank = from; rank < end; ++rank) add(again, ranks.value(rank));
        certain = settle(again, largest, scale, b, usable);
        out = b.low;
    }
    return certain;
}

template <class V, class Ranks>
__device__ unsigned first_kept(const Ranks& ranks, unsigned n, unsigned f, double center) {
    unsigned low = 0, high = f;
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        if (upper_is_nearer<V>(ranks.value(middle), ranks.value(middle + n - f), center)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// ---- Columns of any number of rows ----

// The rank of the first value that is kept: by bisection, the smallest key up to the center's to which fewer
// than n - f values are to be preferred. Those are the larger ones up to the center, and beyond it the nearer
// ones.
template <class T>
__device__ unsigned first_kept(const TableRows& rows, unsigned n, unsigned f, std::size_t j, T center) {
    const std::int64_t middle = key_of(center);
    const double c = static_cast<double>(widen(center));
    std::int64_t low = -Format<T>::kLargest, high = middle;
    unsigned below = 0, equal = 0, preferred = 0;
    for (bool found = false; !found;) {
        found = low == high;
        const std::uint64_t width = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
        const std::int64_t tried = low + static_cast<std::int64_t>(width >> 1);
        const double x = static_cast<double>(widen(from_key<T>(tried)));
        below = equal = preferred = 0;
        for (unsigned i = 0; i < n; ++i) {
            const T value = rows.row<T>(i)[j];
            const std::int64_t key = key_of(value);
            const bool nearer = upper_is_nearer<Widened<T>>(x, static_cast<double>(widen(value)), c);
            below += key < tried;
            equal += key == tried;
            preferred += key > tried && (key <= middle || nearer);
        }
        if (preferred < n - f) {
            high = tried;
        } else {
            low = tried + 1;
        }
    }
    const unsigned kept = n - f - preferred;
    return below + (equal > kept ? equal - kept : 0);
}

// The mean of what is kept of column j. False: this takes tier 3, which kExact has.
template <class T, bool kExact>
__device__ bool nearest_mean(const TableRows& rows, const Nearest& rule, std::size_t j, T& out) {
    const unsigned n = rule.n, f = rule.f;
    bool certain = true;
    T center;
    if (rule.center == Center::median) {
        const Keys keys = middle_keys<T>(rows, n, j);
        center = middle_of<T>(static_cast<double>(widen(from_key<T>(keys.low))),
                              static_cast<double>(widen(from_key<T>(keys.high))));
    } else {
        certain = kept_mean<T, kExact>(keep<T>(rows, n, j, f, n - f - 1), n, rule.trimmed, center);
    }
    if (!certain) return false;
    const unsigned first = first_kept<T>(rows, n, f, j, center);
    return kept_mean<T, kExact>(keep<T>(rows, n, j, first, first + n - f - 1), n, rule.kept, out);
}

// ---- Kernels ----

template <class T, std::size_t N>
__global__ void __launch_bounds__(threads_of<Widened<T>>(N), blocks_of(N))
    nearest_kernel(const __grid_constant__ InlineRows rows, const __grid_constant__ Nearest rule,
                   std::size_t count, T* out, Report report) {
    using V = Widened<T>;
    constexpr unsigned kThreads = threads_of<V>(N);
    TALLYSTICK_SHARED(V, sorted, N * kThreads);
    const unsigned n = rule.n, f = rule.f;
    V* const own = sorted + threadIdx.x;
    const auto end = static_cast<unsigned>(count), step = static_cast<unsigned>(all_threads());
    for (auto j = static_cast<unsigned>(first_column()); j < end; j += step) {  // fewer registers than size_t
        V v[N];
        const bool fine = order<T, 0, N>(rows, n, j, 0, v);
        visit_ranks(v, [&](unsigned rank, V value) { own[rank * kThreads] = value; });
        if (!fine) {
            blame<T>(rows, n, j, report);
            continue;
        }
        const Ranks<V, kThreads> ranks{own};
        bool certain = true;
        T center, result;
        if (rule.center == Center::median) {
            center = middle_of<T>(ranks.value((n - 1) / 2), ranks.value(n / 2));
        } else {
            certain = ranks_mean(ranks, f, n - 2 * f, rule.trimmed, center);
        }
        if (certain) {
            const unsigned first = first_kept<V>(ranks, n, f, static_cast<double>(widen(center)));
            certain = ranks_mean(ranks, first, n - f, rule.kept, result);
        }
        if (certain) {
            out[j] = result;
        } else {
            mark(report, j);
        }
    }
}

template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    wide_nearest_kernel(TableRows rows, const __grid_constant__ Nearest rule, std::size_t count, T* out,
                        Report report) {
    for (std::size_t j = first_column(); j < count; j += all_threads())
        if (!blame<T>(rows, rule.n, j, report) && !nearest_mean<T, false>(rows, rule, j, out[j]))
            mark(report, j);
}

template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    exact_nearest_kernel(TableRows rows, const __grid_constant__ Nearest rule, std::size_t count, T* out,
                         Report report) {
    for_marked(report, count, [&](std::size_t j) { nearest_mean<T, true>(rows, rule, j, out[j]); });
}

// ---- Launchers ----

template <class T>
Clients nearest_of(const Rows& rows, const Nearest& rule, T* out, Stream stream) {
    Walk<T> walk(rows, stream);
    return walk.each([&](const Columns& c) {
        const auto wide = [&] {
            TALLYSTICK_LAUNCH((wide_nearest_kernel<T>), walk.grid(c.count, kBlock), kBlock, 0, walk.stream(),
                              c.table, rule, c.count, out + c.at, walk.report());
        };
        const bool narrow_enough = with_network<T>(rows.n, [&](auto size) {
            constexpr std::size_t N = size;
            if constexpr (N > kSorted) {
                wide();
            } else {
                constexpr unsigned kThreads = threads_of<Widened<T>>(N);
                TALLYSTICK_LAUNCH((nearest_kernel<T, N>), walk.grid(c.count, kThreads), kThreads, 0,
                                  walk.stream(), c.inlined, rule, c.count, out + c.at, walk.report());
            }
        });
        if (!narrow_enough) wide();
        check_launch();
        TALLYSTICK_LAUNCH((exact_nearest_kernel<T>), walk.grid((c.count + 31) / 32, kBlock), kBlock, 0,
                          walk.stream(), c.table, rule, c.count, out + c.at, walk.report());
        check_launch();
    });
}

Clients nearest(const Rows& rows, std::size_t f, Center center, void* out, Stream stream) {
    if (f == 0) return mean(rows, nullptr, out, stream);
    check_arguments(rows, out);
    if (rows.d() == 0) return {};
    const bool float64 = rows.dtype == Dtype::float64;
    std::vector<double> none;
    Nearest rule{static_cast<unsigned>(rows.n), static_cast<unsigned>(f), center, {}, {}};
    rule.kept = mean_arguments(nullptr, rows.n - f, float64, none).scale;
    rule.trimmed = rule.kept;
    if (center == Center::trimmed_mean)
        rule.trimmed = mean_arguments(nullptr, rows.n - 2 * f, float64, none).scale;
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return nearest_of<T>(rows, rule, static_cast<T*>(out), stream);
    });
}

std::string got(std::size_t n, std::size_t f) {
    return std::to_string(n) + " clients expected, got f = " + std::to_string(f);
}

}  // namespace

Clients meamed(const Rows& rows, std::size_t f, void* out, Stream stream) {
    if (f >= rows.n) throw std::invalid_argument("meamed: f < " + got(rows.n, f));
    return nearest(rows, f, Center::median, out, stream);
}

Clients phocas(const Rows& rows, std::size_t f, void* out, Stream stream) {
    if (2 * f >= rows.n) throw std::invalid_argument("phocas: 2f < " + got(rows.n, f));
    return nearest(rows, f, Center::trimmed_mean, out, stream);
}

}  // namespace tallystick::cuda
