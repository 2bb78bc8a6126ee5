// x86 intrinsics, without the warnings that gcc 12 gives inside its own header (its bug 105593).
#pragma once
#include "cpu.h"
#if TALLYSTICK_X86
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif
