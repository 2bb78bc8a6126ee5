#include "aggregate.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>

#include "column_rules.h"
#include "cpu.h"
#include "exact.h"
#include "intrinsics.h"
#include "order.h"
#include "parallel.h"
#include "rounding.h"
#include "rows.h"
#include "select.h"
#include "typed.h"
#include "weights.h"

namespace tallystick {
namespace {

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

// What nearest_mean measures distance from.
enum class Center { median, trimmed_mean };

#define TALLYSTICK_KERNELS "aggregate_kernels.h"
#include "levels.h"

template <class T>
constexpr Variants<decltype(&scalar::mean<T>)> kMean{TALLYSTICK_VARIANTS(mean<T>)};
template <class T>
constexpr Variants<decltype(&scalar::median<T>)> kMedian{TALLYSTICK_VARIANTS(median<T>)};
template <class T>
constexpr Variants<decltype(&scalar::trimmed_mean<T>)> kTrimmedMean{TALLYSTICK_VARIANTS(trimmed_mean<T>)};
template <class T>
constexpr Variants<decltype(&scalar::nearest_mean<T>)> kNearestMean{TALLYSTICK_VARIANTS(nearest_mean<T>)};
template <class T>
constexpr Variants<decltype(&scalar::majority<T>)> kMajority{TALLYSTICK_VARIANTS(majority<T>)};
template <class T>
constexpr Variants<decltype(&scalar::all_finite<T>)> kAllFinite{TALLYSTICK_VARIANTS(all_finite<T>)};
constexpr Variants<decltype(&scalar::stream_read)> kStreamRead{TALLYSTICK_VARIANTS(stream_read)};

// Clients seen with a NaN or infinity, collected from all threads.
class Suspects {
  public:
    Suspects(std::size_t n, Dtype dtype)
        : finite_(with_type(dtype, [](auto x) { return *kAllFinite<decltype(x)>; })), marked_(n, 0) {}

    void search(const char* const* rows, std::size_t columns) {
        std::lock_guard lock(mutex_);  // rare: only where a kernel met such a value
        for (std::size_t i = 0; i < marked_.size(); ++i)
            if (!marked_[i] && !finite_(rows[i], columns)) marked_[i] = 1;
    }
    Clients clients() const {
        Clients found;
        for (std::size_t i = 0; i < marked_.size(); ++i)
            if (marked_[i]) found.push_back(i);
        return found;
    }

  private:
    bool (*finite_)(const char*, std::size_t);
    std::mutex mutex_;
    std::vector<char> marked_;
};

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

// The kernels that call(type, memory...) names, each with its own memory: copies of it share that.
template <class Make>
MakeColumnKernel for_type(Dtype dtype, Make make) {
    return [dtype, make] { return with_type(dtype, make); };
}

std::shared_ptr<const Selector> selector(std::size_t n, std::size_t low, std::size_t high, Wanted wanted,
                                         Dtype dtype) {
    return std::make_shared<const Selector>(n, low, high, wanted, dtype);
}

// What rules that average sorted rows need: the arguments of a mean of `count` rows.
struct SortedMean {
    std::shared_ptr<const Selector> selector;
    MeanArguments arguments;

    SortedMean(std::size_t n, std::size_t low, std::size_t high, std::size_t count, Wanted wanted,
               Dtype dtype)
        : selector(tallystick::selector(n, low, high, wanted, dtype)) {
        std::vector<double> none;
        arguments = mean_arguments(nullptr, count, dtype == Dtype::float64, none);
    }
};

// One thread's memory for it.
template <class T>
struct SortedMemory {
    SelectMemory select;
    PendingMemory<Widened<T>> pending;

    SortedMemory(const SelectPlan& plan, Dtype dtype) : select(plan, dtype), pending(plan.n) {}
};

}  // namespace

Clients run_columns(const Rows& rows, void* out, const MakeColumnKernel& make_kernel) {
    Suspects suspects(rows.n, rows.dtype);
    const std::size_t size = size_of(rows.dtype);
    parallel_for(rows.d(), kGrain, [&](std::size_t lo, std::size_t hi) {
        const ColumnKernel kernel = make_kernel();
        char tail[kTile * sizeof(double)] = {};
        walk(rows, lo, hi, kTile, [&](const char* const* addresses, std::size_t columns, std::size_t c) {
            char* target = static_cast<char*>(out) + c * size;
            const bool partial = c + columns > hi;
            if (!kernel(addresses, columns, partial ? tail : target)) suspects.search(addresses, columns);
            if (partial) std::memcpy(target, tail, (hi - c) * size);
        });
    });
    return suspects.clients();
}

Clients mean(const Rows& rows, const double* weights, void* out) {
    std::vector<double> scaled;
    const MeanArguments a = mean_arguments(weights, rows.n, rows.dtype == Dtype::float64, scaled);
    return run_columns(rows, out, for_type(rows.dtype, [&rows, a](auto x) -> ColumnKernel {
                           using T = decltype(x);
                           auto pending = std::make_shared<PendingMemory<Widened<T>>>(rows.n);
                           return [&rows, a, kernel = *kMean<T>, pending](const char* const* in,
                                                                          std::size_t columns, char* to) {
                               return kernel(in, rows.n, columns, a, to, **pending);
                           };
                       }));
}

MakeColumnKernel median_kernel(std::size_t n, Dtype dtype, Middle middle) {
    const std::size_t low = (n - 1) / 2, high = n / 2;
    const auto chosen = selector(n, middle == Middle::upper ? high : low,
                                 middle == Middle::lower ? low : high, Wanted::middle, dtype);
    return for_type(dtype, [chosen, dtype](auto x) -> ColumnKernel {
        using T = decltype(x);
        auto memory = std::make_shared<SelectMemory>(chosen->plan, dtype);
        return [chosen, kernel = *kMedian<T>, memory](const char* const* in, std::size_t columns, char* to) {
            return kernel(in, columns, chosen->plan, memory->work, to);
        };
    });
}

MakeColumnKernel trimmed_mean_kernel(std::size_t n, Dtype dtype, std::size_t f) {
    const SortedMean sorted(n, f, n - f - 1, n - 2 * f, Wanted::between, dtype);
    return for_type(dtype, [sorted, dtype](auto x) -> ColumnKernel {
        using T = decltype(x);
        auto memory = std::make_shared<SortedMemory<T>>(sorted.selector->plan, dtype);
        return [sorted, kernel = *kTrimmedMean<T>, memory](const char* const* in, std::size_t columns,
                                                           char* to) {
            return kernel(in, columns, sorted.selector->plan, memory->select.work, sorted.arguments, to,
                          *memory->pending);
        };
    });
}

static MakeColumnKernel nearest_mean_kernel(std::size_t n, Dtype dtype, std::size_t f, Center center) {
    const SortedMean sorted(n, 0, n - 1, n - f, Wanted::all, dtype);
    const SortedMean trimmed(n, f, n - f - 1, center == Center::trimmed_mean ? n - 2 * f : 1, Wanted::between,
                             dtype);
    return for_type(dtype, [sorted, trimmed, dtype, f, center](auto x) -> ColumnKernel {
        using T = decltype(x);
        auto memory = std::make_shared<SortedMemory<T>>(sorted.selector->plan, dtype);
        return [sorted, trimmed, f, center, kernel = *kNearestMean<T>, memory](
                   const char* const* in, std::size_t columns, char* to) {
            return kernel(in, columns, sorted.selector->plan, memory->select.work, f, center,
                          trimmed.arguments, sorted.arguments, to, *memory->pending);
        };
    });
}

MakeColumnKernel meamed_kernel(std::size_t n, Dtype dtype, std::size_t f) {
    return nearest_mean_kernel(n, dtype, f, Center::median);
}
MakeColumnKernel phocas_kernel(std::size_t n, Dtype dtype, std::size_t f) {
    return nearest_mean_kernel(n, dtype, f, Center::trimmed_mean);
}

MakeColumnKernel majority_kernel(std::size_t n, Dtype dtype) {
    return for_type(dtype, [n](auto x) -> ColumnKernel {
        using T = decltype(x);
        return [n, kernel = *kMajority<T>](const char* const* in, std::size_t columns, char* to) {
            return kernel(in, n, columns, to);
        };
    });
}

static Clients run_rule(const Rows& rows, const ColumnRule& rule, void* out) {
    return run_columns(rows, out, column_kernels(rule, rows.n, rows.dtype));
}
static Clients run_counting(ColumnRule::Kind kind, const Rows& rows, std::size_t f, void* out) {
    if (f == 0) return mean(rows, nullptr, out);
    return run_rule(rows, {kind, Middle::mid, f}, out);
}

Clients median(const Rows& rows, Middle middle, void* out) {
    return run_rule(rows, {ColumnRule::Kind::median, middle, 0}, out);
}
Clients trimmed_mean(const Rows& rows, std::size_t f, void* out) {
    return run_counting(ColumnRule::Kind::trimmed_mean, rows, f, out);
}
Clients meamed(const Rows& rows, std::size_t f, void* out) {
    return run_counting(ColumnRule::Kind::meamed, rows, f, out);
}
Clients phocas(const Rows& rows, std::size_t f, void* out) {
    return run_counting(ColumnRule::Kind::phocas, rows, f, out);
}
Clients majority(const Rows& rows, void* out) {
    return run_rule(rows, {ColumnRule::Kind::majority, Middle::mid, 0}, out);
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
