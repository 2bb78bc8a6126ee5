#include "mixed.h"

#include <algorithm>
#include <memory>

#include "column_rules.h"
#include "cpu.h"
#include "exact.h"
#include "intrinsics.h"
#include "mix_plan.h"
#include "rows.h"
#include "typed.h"

namespace tallystick {
namespace {

constexpr std::size_t kTile = 64;  // columns

#define TALLYSTICK_KERNELS "mixed_kernels.h"
#include "levels.h"

template <class T>
constexpr Variants<decltype(&scalar::mix<T>)> kMix{TALLYSTICK_VARIANTS(mix<T>)};

// Columns of virtual clients that the rule is given at a time: as many as stay in an L2 cache, so that what
// it does once a call (settling uncertain columns side by side) is rare.
std::size_t columns_at_once(std::size_t rows, std::size_t size) {
    constexpr std::size_t kBytes = 128 << 10;
    return std::clamp(kBytes / (rows * size) / kTile * kTile, kTile, kLongestRun);
}

// One thread's tile of virtual clients and what it takes to fill it.
class MixMemory {
  public:
    MixMemory(const MixOwner& owner, std::size_t size)
        : columns(columns_at_once(owner.plan.tabled + owner.plan.lists, size)),
          table_(kQuadsAtOnce * 16 * kSlot),
          sums_((owner.plan.tabled + 7) / 8 * 8 * kSlot),
          wide_(owner.plan.lists ? owner.plan.n * 4 * kSlot : 0),
          tile_((owner.plan.tabled + owner.plan.lists) * (columns * size + 64)),  // strides: no power of two
          work{table_.get(), reinterpret_cast<double*>(sums_.get()), reinterpret_cast<double*>(wide_.get()),
               columns * size + 64} {
        for (std::size_t q = 0; q < kQuadsAtOnce; ++q) std::memset(table_.get() + q * 16 * kSlot, 0, kSlot);
        for (const std::size_t r : owner.row_of) rows_.push_back(tile_.get() + r * work.stride);
    }
    const std::size_t columns;
    char* tile() const { return tile_.get(); }
    const char* const* rows() const { return rows_.data(); }

  private:
    Scratch table_, sums_, wide_, tile_;
    std::vector<const char*> rows_;

  public:
    const MixWork work;
};

}  // namespace

Clients mixed(const Rows& rows, const Matrix& matrix, const ColumnRule& rule, void* out) {
    const MakeColumnKernel make_rule = column_kernels(rule, matrix.m, rows.dtype);
    const MixOwner owner(matrix, rows.n);
    return run_columns(rows, out, [&] {
        return with_type(rows.dtype, [&](auto x) -> ColumnKernel {
            using T = decltype(x);
            const auto memory = std::make_shared<MixMemory>(owner, sizeof(T));
            return [&owner, memory, mix = *kMix<T>, reduce = make_rule()](const char* const* in,
                                                                          std::size_t columns, char* to) {
                bool finite = true;
                for (std::size_t c = 0; c < columns; c += memory->columns) {
                    const std::size_t count = std::min(memory->columns, columns - c);
                    for (std::size_t k = 0; k < count; k += kTile)
                        finite = mix(in, c + k, owner.plan, memory->work, memory->tile() + k * sizeof(T)) &&
                                 finite;
                    reduce(memory->rows(), count, to + c * sizeof(T));
                }
                return finite;
            };
        });
    });
}

}  // namespace tallystick
