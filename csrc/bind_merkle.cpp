#include "bind.h"
#include "merkle.h"

void tallystick::bind_merkle(pybind11::module_&) {}
