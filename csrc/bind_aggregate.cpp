#include "bind.h"
#include "aggregate.h"

void tallystick::bind_aggregate(pybind11::module_&) {}
