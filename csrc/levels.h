// Includes the file that TALLYSTICK_KERNELS names once per CPU level, in a namespace and region of its own,
// with LEVEL and LEVEL_BYTES (the width of its vectors) defined. Include it inside the namespace that wants
// them.
#define LEVEL scalar
#define LEVEL_BYTES 16
#include TALLYSTICK_KERNELS
#undef LEVEL
#undef LEVEL_BYTES
#if TALLYSTICK_X86
TALLYSTICK_AVX2_BEGIN
#define LEVEL avx2
#define LEVEL_BYTES 32
#include TALLYSTICK_KERNELS
#undef LEVEL
#undef LEVEL_BYTES
TALLYSTICK_TARGET_END
TALLYSTICK_AVX512_BEGIN
#define LEVEL avx512
#define LEVEL_BYTES 64
#include TALLYSTICK_KERNELS
#undef LEVEL
#undef LEVEL_BYTES
TALLYSTICK_TARGET_END
#define TALLYSTICK_VARIANTS(name) {&scalar::name, &avx2::name, &avx512::name}
#else
#define TALLYSTICK_VARIANTS(name) {&scalar::name, nullptr, nullptr}
#endif
#undef TALLYSTICK_KERNELS
