#include "combine.h"

#include "column_kernels.h"
#include "cpu.h"
#include "exact.h"
#include "intrinsics.h"
#include "typed.h"

namespace tallystick {
namespace {

constexpr std::size_t kTile = 64;  // columns; a multiple of every level's block

#define TALLYSTICK_KERNELS "combine_kernels.h"
#include "levels.h"

template <class T>
constexpr Variants<decltype(&scalar::combine<T>)> kCombine{TALLYSTICK_VARIANTS(combine<T>)};

}  // namespace

Clients combine(const Rows& rows, const double* weights, void* out) {
    return run_columns(rows, out, [&] {
        return with_type(rows.dtype, [&](auto x) -> ColumnKernel {
            return [n = rows.n, weights, kernel = *kCombine<decltype(x)>](const char* const* in,
                                                                          std::size_t columns, char* to) {
                return kernel(in, n, columns, weights, to);
            };
        });
    });
}

}  // namespace tallystick
