#include "mixed.h"

#include <algorithm>
#include <memory>

#include "column_rules.h"
#include "columns.h"
#include "cpu.h"
#include "exact.h"
#include "intrinsics.h"
#include "mix_plan.h"

namespace tallystick {
namespace {

constexpr std::size_t kTile = 64;  // columns

#define LEVEL scalar
#define LEVEL_BYTES 16
#include "lanes.h"
//
#include "ahead.h"
#include "widen.h"
//
#include "mixed_kernels.h"
#undef LEVEL
#undef LEVEL_BYTES
#if TALLYSTICK_X86
TALLYSTICK_AVX2_BEGIN
#define LEVEL avx2
#define LEVEL_BYTES 32
#include "lanes.h"
//
#include "ahead.h"
#include "widen.h"
//
#include "mixed_kernels.h"
#undef LEVEL
#undef LEVEL_BYTES
TALLYSTICK_TARGET_END
TALLYSTICK_AVX512_BEGIN
#define LEVEL avx512
#define LEVEL_BYTES 64
#include "lanes.h"
//
#include "ahead.h"
#include "widen.h"
//
#include "mixed_kernels.h"
#undef LEVEL
#undef LEVEL_BYTES
TALLYSTICK_TARGET_END
#define TALLYSTICK_VARIANTS(name) {&scalar::name, &avx2::name, &avx512::name}
#else
#define TALLYSTICK_VARIANTS(name) {&scalar::name, nullptr, nullptr}
#endif

template <class T>
constexpr Variants<decltype(&scalar::mix<T>)> kMix{TALLYSTICK_VARIANTS(mix<T>)};

// One thread's tile of virtual clients and what it takes to fill it.
class MixMemory {
  public:
    MixMemory(const MixOwner& owner, std::size_t size)
        : table_(kQuadsAtOnce * 16 * kSlot),
          sums_((owner.plan.tabled + 7) / 8 * 8 * kSlot),
          wide_(owner.plan.lists ? owner.plan.n * 4 * kSlot : 0),
          tile_((owner.plan.tabled + owner.plan.lists) * kTile * size),
          work_{table_.get(), reinterpret_cast<double*>(sums_.get()), reinterpret_cast<double*>(wide_.get()),
                tile_.get()} {
        for (std::size_t q = 0; q < kQuadsAtOnce; ++q) std::memset(table_.get() + q * 16 * kSlot, 0, kSlot);
        for (const std::size_t r : owner.row_of) rows_.push_back(tile_.get() + r * kTile * size);
    }
    const MixWork& work() const { return work_; }
    const char* const* rows() const { return rows_.data(); }

  private:
    Scratch table_, sums_, wide_, tile_;
    std::vector<const char*> rows_;
    MixWork work_;
};

}  // namespace

Clients mixed(const Rows& rows, const Matrix& matrix, const ColumnRule& rule, void* out) {
    const auto make_rule = column_kernels(rule, matrix.m, rows.dtype);
    const MixOwner owner(matrix, rows.n);
    return with_type(rows.dtype, [&](auto x) {
        using T = decltype(x);
        return over_columns<T, kTile>(rows, out, [&] {
            return [&, mix = *kMix<T>, memory = MixMemory(owner, sizeof(T)), reduce = make_rule()](
                       const char* const* in, std::size_t columns, char* to) {
                bool finite = true;
                for (std::size_t c = 0; c < columns; c += kTile) {
                    finite = mix(in, c, owner.plan, memory.work()) && finite;
                    reduce(memory.rows(), kTile, to + c * sizeof(T));
                }
                return finite;
            };
        });
    });
}

}  // namespace tallystick
