#include "combine.h"

#include "column_kernels.h"
#include "cpu.h"
#include "exact.h"
#include "intrinsics.h"
#include "typed.h"

namespace tallystick {
namespace {

constexpr std::size_t kTile = 64;  // columns; a multiple of every level's block

#define LEVEL scalar
#define LEVEL_BYTES 16
#include "lanes.h"
//
#include "ahead.h"
#include "widen.h"
//
#include "combine_kernels.h"
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
#include "combine_kernels.h"
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
#include "combine_kernels.h"
#undef LEVEL
#undef LEVEL_BYTES
TALLYSTICK_TARGET_END
#define TALLYSTICK_VARIANTS(name) {&scalar::name, &avx2::name, &avx512::name}
#else
#define TALLYSTICK_VARIANTS(name) {&scalar::name, nullptr, nullptr}
#endif

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
