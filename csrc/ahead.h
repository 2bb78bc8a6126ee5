// Prefetching rows. Included once per CPU level, in its region.
namespace LEVEL {

// Rows are prefetched into L2 a stretch of bytes ahead, and there row by row: memory then sees long
// sequential reads. A kernel that works on columns [c, c + width) fetches its share of the rows.
constexpr std::size_t kAheadBytes = 2048;

template <class T>
TALLYSTICK_HD void prefetch_ahead(const char* const* rows, std::size_t n, std::size_t c, std::size_t width) {
    const std::size_t at = c * sizeof(T), start = at / kAheadBytes * kAheadBytes;
    const char* const* const last = rows + n * (at - start + width * sizeof(T)) / kAheadBytes;
    for (const char* const* r = rows + n * (at - start) / kAheadBytes; r < last; ++r)
        for (std::size_t b = 0; b < kAheadBytes; b += 64)
            __builtin_prefetch(*r + start + kAheadBytes + b, 0, 2);
}

}  // namespace LEVEL
