// Names and sizes of the formats that updates come in.
#pragma once
#include <cstddef>
#include <stdexcept>  // for invalid_argument
#include <string>

namespace tallystick {

enum class Dtype { float32, float64, float16, bfloat16 };

inline Dtype dtype_from_name(const std::string& name) {
    if (name == "float32") return Dtype::float32;
    if (name == "float64") return Dtype::float64;
    if (name == "float16") return Dtype::float16;
    if (name == "bfloat16") return Dtype::bfloat16;
    throw std::invalid_argument("dtype float32, float64, float16 or bfloat16 expected, got '" + name + "'");
}

inline std::size_t size_of(Dtype dtype) {
    return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
}

}  // namespace tallystick
