#include "aggregate.h"
#include "bind.h"

void tallystick::bind_aggregate(pybind11::module_&) {}
