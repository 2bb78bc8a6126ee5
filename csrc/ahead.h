// Prefetching rows. Included once per CPU level, in its region.
namespace LEVEL {

// Rows are prefetched into L2 a stretch of bytes ahead, and there row by row: memory then sees long
// sequential reads. A kernel that works on columns [c, c + width) fetches its share of the rows, a few lines
// now and then.
constexpr std::size_t kAhead = 2048;
struct Ahead {
    const char* const* row;
    const char* const* last;
    std::size_t offset, stretch_end;

    template <class T>
    static TALLYSTICK_HD Ahead share(const char* const* rows, std::size_t n, std::size_t c,
                                     std::size_t width) {
        const std::size_t at = c * sizeof(T), start = at / kAhead * kAhead;
        return {rows + n * (at - start) / kAhead, rows + n * (at - start + width * sizeof(T)) / kAhead,
                start + kAhead, start + 2 * kAhead};
    }
    TALLYSTICK_HD void fetch_all() const {
        for (const char* const* r = row; r < last; ++r)
            for (std::size_t b = 0; b < kAhead; b += 64) __builtin_prefetch(*r + offset + b, 0, 2);
    }
    TALLYSTICK_HD std::size_t lines() const { return static_cast<std::size_t>(last - row) * (kAhead / 64); }
    TALLYSTICK_HD void fetch(std::size_t lines) {
        for (; lines > 0 && row < last; --lines) {
            __builtin_prefetch(*row + offset, 0, 2);
            offset += 64;
            if (offset == stretch_end) {
                offset -= kAhead;
                ++row;
            }
        }
    }
};

}  // namespace LEVEL
