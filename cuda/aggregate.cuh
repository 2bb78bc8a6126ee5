// The functions of csrc/aggregate.h for rows in device memory: same arguments, same results, same bits.
//   rows     pointers are device addresses; pointers and bounds themselves are host memory
//   weights  host memory
//   out      device memory, aligned to the dtype
//   stream   all work runs in it; every function returns when it is done
// Throws std::invalid_argument as on the CPU, std::runtime_error where CUDA refuses (no memory, no device).
#pragma once
#include <cstdint>
#include <string>

#include "aggregate.h"

namespace tallystick::cuda {

using Stream = std::uintptr_t;  // a cudaStream_t as an integer; 0 is the default stream

Clients mean(const Rows& rows, const double* weights, void* out, Stream stream);
Clients median(const Rows& rows, Middle middle, void* out, Stream stream);
Clients trimmed_mean(const Rows& rows, std::size_t f, void* out, Stream stream);
Clients meamed(const Rows& rows, std::size_t f, void* out, Stream stream);
Clients phocas(const Rows& rows, std::size_t f, void* out, Stream stream);
Clients majority(const Rows& rows, void* out, Stream stream);
Clients nonfinite(const Rows& rows, Stream stream);

// Devices that can run the kernels; when there is none, reason says why. Never throws.
int device_count(std::string& reason);

// Whether this is the build for tests that runs the kernels on the CPU.
bool emulated();

}  // namespace tallystick::cuda
