// Which steps bring wanted ranks of n rows into their places, whatever the CPU level; select_kernels.h runs
// them. Internal to csrc/.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

#include "dtype.h"
#include "rows.h"

namespace tallystick {

constexpr std::size_t kTile = 64;  // columns; a multiple of every level's block

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

// middle: ranks low and high, at most 1 apart. between: those two in their places, the ranks between them in
// any order. all: every rank from low to high in its place.
enum class Wanted { middle, between, all };

// Which ranks of n rows are wanted, `width` columns at a time.
struct SelectPlan {
    std::size_t n, width;
    std::size_t low, high;  // first and last rank wanted
    Wanted wanted;
    std::size_t in_pairs;  // so many rows are sorted 2 * kBlock at a time, the others kBlock
    const SelectStep* steps;
    std::size_t size;
};

// One thread's memory for it.
struct SelectWork {
    void* tile;              // n rows
    const char** tile_rows;  // their addresses
    void* wide;              // the same rows as floats; for wider formats the tile itself
    const char** wide_rows;
};

// Tiles of 64 columns where n of them fit in 28 KiB (most of an L1 cache), else fewer, but a whole register
// and 16.
inline std::size_t tile_width(std::size_t n, std::size_t size) {
    std::size_t width = kTile;
    while (width > 16 && width * size > 64 && n * width * size > 28 * 1024) width /= 2;
    return width;
}

// A plan and its steps: how sorted blocks of kBlock rows are merged. Every merge starts with mirrored wires,
// after which each half holds what belongs there, and goes on so in each half; the last merge leaves out what
// is not wanted.
class Selector {
  public:
    SelectPlan plan;

    Selector(std::size_t n, std::size_t low, std::size_t high, Wanted wanted, Dtype dtype) {
        const std::size_t width = tile_width(n, size_of(dtype));
        const std::size_t pairs = n > 2 * kBlock ? n / (2 * kBlock) * 2 * kBlock : 0;
        plan = {n, width, low, high, wanted, pairs, nullptr, 0};
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
        const bool inside = first > plan.low && first + count - 1 < plan.high;
        return inside && plan.wanted != Wanted::all ? Left::values : Left::order;
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
    Scratch tile, wide;
    std::vector<const char*> tile_rows, wide_rows;
    SelectWork work;

    SelectMemory(const SelectPlan& plan, Dtype dtype)
        : tile(plan.n * stride(size_of(dtype))),
          wide(size_of(dtype) == 2 ? plan.n * stride(4) : 0),
          tile_rows(plan.n),
          wide_rows(plan.n),
          work{tile.get(), tile_rows.data(), size_of(dtype) == 2 ? wide.get() : tile.get(),
               wide_rows.data()} {
        for (std::size_t i = 0; i < plan.n; ++i) {
            tile_rows[i] = tile.get() + i * stride(size_of(dtype));
            wide_rows[i] = size_of(dtype) == 2 ? wide.get() + i * stride(4) : tile_rows[i];
        }
    }

  private:
    static std::size_t stride(std::size_t size) { return kTile * size + 64; }  // kStride in bytes
};

}  // namespace tallystick
