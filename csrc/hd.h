// TALLYSTICK_HD marks arithmetic that g++ and nvcc both compile, so that CPU and GPU run the same source.
#pragma once
#if defined(__CUDACC__)
#define TALLYSTICK_HD __host__ __device__ __forceinline__
#else
#define TALLYSTICK_HD inline __attribute__((always_inline))
#endif
