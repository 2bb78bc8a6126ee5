// Loop of running_mean_add. By levels.h.
namespace LEVEL {

// In: format of the values, at any byte address.
template <class In>
bool running_add(const char* x, double w, std::size_t size, double* high, double* low, double* lost) {
    unsigned broken = 0;
    for (std::size_t j = 0; j < size; ++j) {
        In given;
        __builtin_memcpy(&given, x + j * sizeof(In), sizeof given);
        const double value = widen(given);
        broken |= value * 0 != 0;  // NaN for a value that is not finite
        LongSum sum{high[j], low[j], lost[j]};
        add(sum, w, value);
        high[j] = sum.high;
        low[j] = sum.low;
        lost[j] = sum.lost + outside<In>(magnitude(w * value), value);
    }
    return broken == 0;
}

}  // namespace LEVEL
#undef LEVEL
