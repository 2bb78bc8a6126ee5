#include "aggregate.h"

#include <algorithm>
#include <atomic>
#include <limits>
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

// Merging in a tile whose rows are wires: up to sixteen of them through registers, a bitonic network over
// them.
constexpr std::size_t kBlock = 16;
struct SelectStep {
    std::size_t base, spacing;  // wire t of group i: base + t * spacing + i; of a mirrored step's upper half:
    std::size_t first, groups;  // base + t * spacing + spacing - 1 - i;  first <= i < first + groups
    std::size_t count, present;  // wires 0..present - 1 exist, the others are infinite and stay so
    bool mirrored;               // the network's first step compares wires t and count - 1 - t
    bool whole;                  // all of them exist, are stored, and are not plain
    unsigned stored, plain;      // bit t: wire t is still wanted; nothing more is done to it: not a key
};

// Which ranks of n rows are wanted, `width` columns at a time.
struct SelectPlan {
    std::size_t n, width;
    std::size_t low, high;  // first and last rank wanted
    bool middle_only;       // only those two, at most 1 apart
    std::size_t in_pairs;   // so many rows are sorted 2 * kBlock at a time, the others kBlock
    const SelectStep* steps;
    std::size_t size;
};

// One thread's memory for it.
struct SelectWork {
    void* tile;              // n rows
    const char** tile_rows;  // their addresses
};

#define LEVEL scalar
#define LEVEL_BYTES 16
#include "lanes.h"
//
#include "select_kernels.h"
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
#include "select_kernels.h"
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
#include "select_kernels.h"
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

// Tiles of 64 columns where n of them fit in 28 KiB (most of an L1 cache), else fewer, but a whole register.
std::size_t tile_width(std::size_t n, std::size_t size) {
    std::size_t width = kTile;
    while (width * size > 64 && n * width * size > 28 * 1024) width /= 2;
    return width;
}

// A plan and its steps: how sorted blocks of kBlock rows are merged. Every merge starts with mirrored wires,
// after which each half holds what belongs there, and goes on so in each half; the last merge leaves out what
// is not wanted.
class Selector {
  public:
    SelectPlan plan;

    Selector(std::size_t n, std::size_t low, std::size_t high, bool middle_only, Dtype dtype) {
        const std::size_t width = tile_width(n, size_of(dtype));
        const std::size_t pairs = n > 2 * kBlock ? n / (2 * kBlock) * 2 * kBlock : 0;
        plan = {n, width, low, high, middle_only, pairs, nullptr, 0};
        for (std::size_t p = kBlock; p < n; p *= 2) {
            last_ = 2 * p >= n;
            for (std::size_t base = p == kBlock ? plan.in_pairs : 0; base + p < n; base += 2 * p) {
                const std::size_t count = std::min(2 * p / kBlock, kBlock), spacing = 2 * p / count;
                put(base, count, spacing, true);
                for (std::size_t i = 0; i < count; ++i) order(base + i * spacing, spacing);
            }
        }
        plan.steps = steps_.data();
        plan.size = steps_.size();
    }
    Selector(const Selector&) = delete;

  private:
    enum class Left { nothing, values, order };  // wanted of the ranks first .. first + count - 1
    Left left(std::size_t first, std::size_t count) const {
        if (!last_) return Left::order;
        if (first > plan.high || first + count <= plan.low) return Left::nothing;
        return first > plan.low && first + count - 1 < plan.high ? Left::values : Left::order;
    }

    // Steps over the wires base .. base + count * spacing - 1, each over `count` wires `spacing` apart.
    void put(std::size_t base, std::size_t count, std::size_t spacing, bool mirrored) {
        for (std::size_t i = 0; i < spacing; ++i) {
            SelectStep step{base, spacing, i, 1, count, 0, mirrored, false, 0, 0};
            for (std::size_t t = 0; t < count; ++t) {
                const bool back = mirrored && t >= count / 2;
                const std::size_t from = base + t * spacing;
                if (from + (back ? spacing - 1 - i : i) >= plan.n) break;
                const Left what = left(from, spacing);
                step.present = t + 1;
                if (what != Left::nothing) step.stored |= 1u << t;
                if (what == Left::values || (last_ && spacing == 1)) step.plain |= 1u << t;
            }
            step.whole = step.stored == (1u << count) - 1 && step.plain == 0;
            const bool idle = step.present < 2 || (mirrored && count == 2 && step.present == 1);
            if (step.stored == 0 || (idle && step.plain == 0)) continue;
            if (!steps_.empty() && continues(steps_.back(), step)) {
                ++steps_.back().groups;
            } else {
                steps_.push_back(step);
            }
        }
    }
    static bool continues(const SelectStep& a, const SelectStep& b) {
        return a.base == b.base && a.spacing == b.spacing && a.first + a.groups == b.first &&
               a.count == b.count && a.present == b.present && a.mirrored == b.mirrored &&
               a.stored == b.stored && a.plain == b.plain;
    }
    void order(std::size_t base, std::size_t wires) {
        if (base >= plan.n || left(base, wires) != Left::order) return;
        const std::size_t count = wires == kBlock ? kBlock : std::min(wires / kBlock, kBlock);
        const std::size_t spacing = wires / count;
        put(base, count, spacing, false);
        for (std::size_t i = 0; i < count && spacing > 1; ++i) order(base + i * spacing, spacing);
    }

    bool last_ = false;
    std::vector<SelectStep> steps_;
};

struct SelectMemory {
    Scratch tile;
    std::vector<const char*> tile_rows;
    SelectWork work;

    SelectMemory(const SelectPlan& plan, Dtype dtype)
        : tile(plan.n * (kTile * size_of(dtype) + 64)),
          tile_rows(plan.n),
          work{tile.get(), tile_rows.data()} {
        const std::size_t row = kTile * size_of(dtype) + 64;
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
    const std::size_t first = middle == Middle::upper ? high : low,
                      last = middle == Middle::lower ? low : high;
    const Selector selector(rows.n, first, last, true, rows.dtype);
    const SelectPlan& plan = selector.plan;
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return for_columns<T>(rows, out, [&] {
            return [&, kernel = *kMedian<T>, memory = SelectMemory(plan, rows.dtype)](
                       const char* const* in, std::size_t columns, char* to) {
                return kernel(in, columns, plan, memory.work, to);
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
    const SelectPlan& plan = selector.plan;
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return for_columns<T>(rows, out, [&] {
            return [&, kernel = *kTrimmedMean<T>, memory = SelectMemory(plan, rows.dtype),
                    pending = PendingMemory<Widened<T>>(rows.n)](const char* const* in, std::size_t columns,
                                                                 char* to) mutable {
                return kernel(in, columns, plan, memory.work, a, to, *pending);
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
