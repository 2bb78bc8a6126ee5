// Module tallystick._core: the CPU engine.
#include "bind.h"

#ifndef TALLYSTICK_VERSION
#define TALLYSTICK_VERSION ""
#endif

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
    m.attr("version") = TALLYSTICK_VERSION;
    tallystick::bind_cpu(m);
    tallystick::bind_arrays(m);
    tallystick::bind_aggregate(m);
    tallystick::bind_combine(m);
    tallystick::bind_decisions(m);
    tallystick::bind_mixed(m);
    tallystick::bind_merkle(m);
    tallystick::bind_running_mean(m);
}
