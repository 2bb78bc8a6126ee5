#include "aggregate.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <stdexcept>  // for invalid_argument

#include "cpu.h"
#include "exact.h"
#include "intrinsics.h"
#include "order.h"
#include "parallel.h"
#include "rounding.h"
#include "rows.h"
#include "weights.h"

namespace tallystick {
namespace {

constexpr std::size_t kTile = 64;     // columns; a multiple of every level's block
constexpr std::size_t kGrain = 4096;  // columns per step of a thread

// Columns that tier 1 leaves open, until there are eight to redo side by side. One thread's own.
template <class F>
struct Pending {
    F* values;  // n rows of eight
    std::size_t count;
    double largest[8];
    char* out[8];
    Redone redone;
};

// How a tile of n rows and `width` columns is brought into order: which ranks, by which comparators.
struct SelectPlan {
    std::size_t n, width;
    std::size_t low, high;  // first and last rank wanted
    bool middle_only;       // only ranks low and high, at most 1 apart
    const Comparator* net;  // merging phases, for n > 16
    std::size_t size;
};

// One thread's memory for it.
struct SelectWork {
    void* tile;              // n rows
    void* wide;              // n rows, 16-bit formats only
    const char** tile_rows;  // addresses in tile
    const char** wide_rows;  // addresses in wide
};

#define LEVEL scalar
#define LEVEL_BYTES 16
#include "lanes.h"
//
#include "aggregate_kernels.h"
#undef LEVEL
#undef LEVEL_BYTES
#if TALLYSTICK_X86
TALLYSTICK_AVX2_BEGIN
#define LEVEL avx2
#define LEVEL_BYTES 32
#include "lanes.h"
//
#include "aggregate_kernels.h"
#undef LEVEL
#undef LEVEL_BYTES
TALLYSTICK_TARGET_END
TALLYSTICK_AVX512_BEGIN
#define LEVEL avx512
#define LEVEL_BYTES 64
#include "lanes.h"
//
#include "aggregate_kernels.h"
#undef LEVEL
#undef LEVEL_BYTES
TALLYSTICK_TARGET_END
#define TALLYSTICK_VARIANTS(name) {&scalar::name, &avx2::name, &avx512::name}
#else
#define TALLYSTICK_VARIANTS(name) {&scalar::name, nullptr, nullptr}
#endif

template <class T>
constexpr Variants<decltype(&scalar::mean<T>)> kMean{TALLYSTICK_VARIANTS(mean<T>)};
template <class T>
constexpr Variants<decltype(&scalar::median<T>)> kMedian{TALLYSTICK_VARIANTS(median<T>)};
template <class T>
constexpr Variants<decltype(&scalar::trimmed_mean<T>)> kTrimmedMean{TALLYSTICK_VARIANTS(trimmed_mean<T>)};
template <class T>
constexpr Variants<decltype(&scalar::all_finite<T>)> kAllFinite{TALLYSTICK_VARIANTS(all_finite<T>)};
constexpr Variants<decltype(&scalar::stream_read)> kStreamRead{TALLYSTICK_VARIANTS(stream_read)};

// Calls body with a value of the type that dtype names.
template <class Body>
auto with_type(Dtype dtype, Body body) {
    switch (dtype) {
        case Dtype::float64:
            return body(double{});
        case Dtype::float16:
            return body(Half{});
        case Dtype::bfloat16:
            return body(Brain{});
        default:
            return body(float{});
    }
}

// Clients seen with a NaN or infinity, collected from all threads.
class Suspects {
  public:
    explicit Suspects(std::size_t n) : marked_(n, 0) {}

    template <class T>
    void search(const char* const* rows, std::size_t columns) {
        std::lock_guard lock(mutex_);  // rare: only where a kernel met such a value
        for (std::size_t i = 0; i < marked_.size(); ++i)
            if (!marked_[i] && !(*kAllFinite<T>)(rows[i], columns)) marked_[i] = 1;
    }
    Clients clients() const {
        Clients found;
        for (std::size_t i = 0; i < marked_.size(); ++i)
            if (marked_[i]) found.push_back(i);
        return found;
    }

  private:
    std::mutex mutex_;
    std::vector<char> marked_;
};

// Runs kernel(rows, columns, out) -> finite over all columns, in threads. make_kernel is called in each.
template <class T, class MakeKernel>
Clients for_columns(const Rows& rows, void* out, MakeKernel make_kernel) {
    Suspects suspects(rows.n);
    parallel_for(rows.d(), kGrain, [&](std::size_t lo, std::size_t hi) {
        auto kernel = make_kernel();
        char tail[kTile * sizeof(T)] = {};
        walk(rows, lo, hi, kTile, [&](const char* const* addresses, std::size_t columns, std::size_t c) {
            char* target = static_cast<char*>(out) + c * sizeof(T);
            const bool partial = c + columns > hi;
            if (!kernel(addresses, columns, partial ? tail : target)) suspects.search<T>(addresses, columns);
            if (partial) std::memcpy(target, tail, (hi - c) * sizeof(T));
        });
    });
    return suspects.clients();
}

std::atomic<std::uint64_t> redone_second{0}, redone_third{0};

// Pending and its memory; adds to the counters at the end.
template <class F>
class PendingMemory {
  public:
    explicit PendingMemory(std::size_t n) : values_(new F[8 * n]()) { pending_.values = values_.get(); }
    PendingMemory(PendingMemory&&) = default;
    ~PendingMemory() {
        redone_second.fetch_add(pending_.redone.second, std::memory_order_relaxed);
        redone_third.fetch_add(pending_.redone.third, std::memory_order_relaxed);
    }
    Pending<F>& operator*() { return pending_; }

  private:
    std::unique_ptr<F[]> values_;
    Pending<F> pending_{};
};

// The comparators that the kernel's sorted blocks of 16 leave to do, for the ranks low..high.
std::vector<Comparator> merging_network(std::size_t n, std::size_t low, std::size_t high, bool ranked,
                                        std::size_t& size) {
    constexpr std::size_t kBlock = 32;  // whole blocks are sorted, the rest in blocks of half that size
    const std::size_t whole = n / kBlock * kBlock;
    std::vector<Comparator> net;
    const auto put = [&net](std::size_t a, std::size_t b) {
        net.push_back({static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(b), true, true});
    };
    batcher(n - whole, kBlock / 2, [&](std::size_t a, std::size_t b) { put(whole + a, whole + b); });
    batcher(n, kBlock, put);
    std::vector<Wire> wires(n, ranked ? Wire::ranked : Wire::kept);
    std::fill(wires.begin(), wires.begin() + static_cast<std::ptrdiff_t>(low), Wire::low);
    std::fill(wires.begin() + static_cast<std::ptrdiff_t>(high) + 1, wires.end(), Wire::high);
    size = prune(net.data(), net.size(), wires.data());
    return net;
}

// Tiles of 64 columns where n of them fit in 28 KiB (most of an L1 cache), else 32 or 16.
std::size_t tile_width(std::size_t n, std::size_t size) {
    std::size_t width = kTile;
    while (width > 16 && n * width * size > 28 * 1024) width /= 2;
    return width;
}

// A plan and the memory that it points to.
struct Selector {
    std::vector<Comparator> net;
    SelectPlan plan;

    Selector(std::size_t n, std::size_t low, std::size_t high, bool middle_only, Dtype dtype) {
        std::size_t size = 0;
        net = merging_network(n, low, high, middle_only, size);
        const std::size_t width = tile_width(n, dtype == Dtype::float64 ? 8 : 4);
        plan = {n, width, low, high, middle_only, net.data() + (net.size() - size), size};
    }
};

struct SelectMemory {
    Scratch tile, wide;
    std::vector<const char*> tile_rows, wide_rows;
    SelectWork work;

    SelectMemory(const SelectPlan& plan, Dtype dtype)
        : tile(plan.n * plan.width * 8),
          wide(size_of(dtype) == 2 ? plan.n * plan.width * 4 : 0),
          tile_rows(plan.n),
          wide_rows(plan.n),
          work{tile.get(), wide.get(), tile_rows.data(), wide_rows.data()} {
        const std::size_t row = plan.width * (dtype == Dtype::float64 ? 8 : 4);
        for (std::size_t i = 0; i < plan.n; ++i) tile_rows[i] = tile.get() + i * row;
    }
};

}  // namespace

Clients mean(const Rows& rows, const double* weights, void* out) {
    std::vector<double> scaled;
    const MeanArguments a = mean_arguments(weights, rows.n, rows.dtype == Dtype::float64, scaled);
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return for_columns<T>(rows, out, [&] {
            return [&, kernel = *kMean<T>, pending = PendingMemory<Widened<T>>(rows.n)](
                       const char* const* in, std::size_t columns, char* to) mutable {
                return kernel(in, rows.n, columns, a, to, *pending);
            };
        });
    });
}

Clients median(const Rows& rows, Middle middle, void* out) {
    const std::size_t low = (rows.n - 1) / 2, high = rows.n / 2;
    Selector selector(rows.n, low, high, true, rows.dtype);
    if (middle == Middle::lower) selector.plan.high = low;
    if (middle == Middle::upper) selector.plan.low = high;
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return for_columns<T>(rows, out, [&] {
            return [&, kernel = *kMedian<T>, memory = SelectMemory(selector.plan, rows.dtype)](
                       const char* const* in, std::size_t columns, char* to) {
                return kernel(in, columns, selector.plan, memory.work, to);
            };
        });
    });
}

Clients trimmed_mean(const Rows& rows, std::size_t f, void* out) {
    if (2 * f >= rows.n)
        throw std::invalid_argument("trimmed_mean: 2f < " + std::to_string(rows.n) +
                                    " clients expected, got f = " + std::to_string(f));
    if (f == 0) return mean(rows, nullptr, out);
    std::vector<double> none;
    const MeanArguments a = mean_arguments(nullptr, rows.n - 2 * f, rows.dtype == Dtype::float64, none);
    const Selector selector(rows.n, f, rows.n - f - 1, false, rows.dtype);
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return for_columns<T>(rows, out, [&] {
            return [&, kernel = *kTrimmedMean<T>, memory = SelectMemory(selector.plan, rows.dtype),
                    pending = PendingMemory<Widened<T>>(rows.n)](const char* const* in, std::size_t columns,
                                                                 char* to) mutable {
                return kernel(in, columns, selector.plan, memory.work, a, to, *pending);
            };
        });
    });
}

Clients nonfinite(const Rows& rows) {
    std::vector<char> marked(rows.n, 0);
    with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        parallel_for(rows.n * rows.pieces, 1, [&](std::size_t lo, std::size_t hi) {
            for (std::size_t at = lo; at < hi; ++at) {
                const std::size_t k = at % rows.pieces;
                const auto columns = static_cast<std::size_t>(rows.bounds[k + 1] - rows.bounds[k]);
                if (!(*kAllFinite<T>)(reinterpret_cast<const char*>(rows.pointers[at]), columns))
                    std::atomic_ref(marked[at / rows.pieces]).store(1, std::memory_order_relaxed);
            }
        });
    });
    Clients found;
    for (std::size_t i = 0; i < rows.n; ++i)
        if (marked[i]) found.push_back(i);
    return found;
}

Redone redone() { return {redone_second.load(), redone_third.load()}; }

float stream_read(const float* x, std::size_t size) { return (*kStreamRead)(x, size); }

}  // namespace tallystick
