// A small thread pool: static ranges, the caller works too, nested and second callers run inline.
// It survives fork: a child forgets the parent's threads and starts its own when it first needs them.
// Size: set_num_threads(), else TALLYSTICK_THREADS, else OMP_NUM_THREADS, else the CPU affinity mask.
#pragma once
#include <cstddef>
#include <functional>

namespace tallystick {

int num_threads();                // throws std::invalid_argument for a bogus TALLYSTICK_THREADS
void set_num_threads(int count);  // 1 <= count <= 1024, else std::invalid_argument

// Calls body(lo, hi) on disjoint ranges that cover [0, size). Every range but the last is a multiple of
// grain long, so what a range computes may depend on its blocks of grain but never on the thread count.
// The first exception thrown by a body is rethrown here, after all of them have ended.
void parallel_for(std::size_t size, std::size_t grain,
                  const std::function<void(std::size_t lo, std::size_t hi)>& body);

}  // namespace tallystick
