// VERIFY(condition): a claimed range or order of calls, checked in builds with TALLYSTICK_VERIFY only.
#pragma once
#if defined(TALLYSTICK_VERIFY) && !defined(__CUDA_ARCH__)
#include <cstdio>   // for fprintf
#include <cstdlib>  // for abort
#define VERIFY(condition)                                                                              \
    do {                                                                                               \
        if (!(condition)) {                                                                            \
            std::fprintf(stderr, "%s:%d: VERIFY(%s) does not hold\n", __FILE__, __LINE__, #condition); \
            std::abort();                                                                              \
        }                                                                                              \
    } while (0)
#else
#define VERIFY(condition) ((void)0)
#endif
