// Every word registers its functions in module _core through one of these.
#pragma once
#include <pybind11/pybind11.h>

namespace tallystick {

void bind_cpu(pybind11::module_& m);
void bind_arrays(pybind11::module_& m);
void bind_aggregate(pybind11::module_& m);
void bind_combine(pybind11::module_& m);
void bind_decisions(pybind11::module_& m);
void bind_mixed(pybind11::module_& m);
void bind_merkle(pybind11::module_& m);
void bind_running_mean(pybind11::module_& m);

}  // namespace tallystick
