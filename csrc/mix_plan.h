// How rows of a matrix are turned into sums: what mixed's kernels are given. Internal to csrc/ and cuda/.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "mixed.h"

namespace tallystick {

constexpr std::size_t kSlot = 64, kSlotUnit = 8;  // bytes of a sum in a table; unit in which they are named
constexpr std::size_t kQuadsAtOnce = 26;          // of a table: 26 KiB, most of an L1 cache

struct MixEntry {
    std::uint32_t client;
    double weight;
};
struct MixList {
    const MixEntry *first, *last;
    double scale;
    bool equal;
};
// Virtual clients, each only once: first those summed from tables of quads, eight side by side, then the
// others.
struct MixPlan {
    std::size_t n, quads, group;
    bool bounded;                // the entries' sizes add up to 1 at most: no y is beyond its format
    std::size_t tabled;          // rows 0 .. tabled - 1
    const std::uint16_t* slots;  // [eight rows][quad][row]: slot in its group's table
    const double* scales;
    std::size_t lists;  // rows tabled .. tabled + lists - 1
    const MixList* list;
};
// One thread's memory.
struct MixWork {
    char* table;         // kQuadsAtOnce quads of 16 slots
    double* sums;        // between groups of quads
    double* wide;        // n rows of four vectors
    std::size_t stride;  // bytes from one virtual client to the next
};

// A plan, what it points to, and which of its rows each of the m virtual clients is.
struct MixOwner {
    MixOwner(const Matrix& matrix, std::size_t n);

    MixPlan plan;
    std::vector<std::size_t> row_of;

  private:
    std::vector<std::uint16_t> slots_;
    std::vector<double> scales_;
    std::vector<MixEntry> entries_;
    std::vector<MixList> list_;
};

}  // namespace tallystick
