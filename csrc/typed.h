// From a dtype to the type of its values. Internal to csrc/.
#pragma once
#include "dtype.h"
#include "rounding.h"

namespace tallystick {

// Calls body with a value of the type that dtype names.
template <class Body>
auto with_type(Dtype dtype, Body body) {
    switch (dtype) {
        case Dtype::float64:
            return body(double{});
        case Dtype::float16:
            return body(Half{});
        case Dtype::bfloat16:
            return body(Brain{});
        default:
            return body(float{});
    }
}

}  // namespace tallystick
