// All that a .cu file needs to compile both with nvcc and, for tests without a GPU, with g++ (cuemu.h):
//   TALLYSTICK_LAUNCH((kernel<T>), grid, block, shared_bytes, stream, arguments...)
//   TALLYSTICK_SHARED(T, name, count)     an array in shared memory
//   TALLYSTICK_DYN_SHARED(T, name)        the shared memory asked for at launch, as T* name
#pragma once
#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define TALLYSTICK_UNPAREN(...) __VA_ARGS__
#define TALLYSTICK_LAUNCH(kernel, grid, block, bytes, stream, ...) \
    TALLYSTICK_UNPAREN kernel<<<grid, block, bytes, stream>>>(__VA_ARGS__)
#define TALLYSTICK_SHARED(T, name, count) __shared__ T name[count]
#define TALLYSTICK_DYN_SHARED(T, name)                              \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    T* const name = reinterpret_cast<T*>(dynamic_shared)
#define TALLYSTICK_EMULATED 0
#else
#include "cuemu.h"
#endif

// A word that other threads change by atomics, read as it is now.
__device__ inline unsigned load_relaxed(const unsigned* word) {
#if defined(__CUDACC__)
    return *static_cast<const volatile unsigned*>(word);
#else
    return __atomic_load_n(word, __ATOMIC_RELAXED);
#endif
}
