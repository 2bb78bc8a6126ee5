#include <string>

#include "bind.h"
#include "cpu.h"
#include "parallel.h"

namespace py = pybind11;

void tallystick::bind_cpu(py::module_& m) {
    m.def("cpu_best", [] { return level_name(cpu_best()); });
    m.def("cpu_level", [] { return level_name(cpu_level()); });
    m.def("cpu_has_sha", &cpu_has_sha);
    m.def(
        "set_cpu_level", [](const std::string& level) { set_cpu_level(level_from_name(level)); },
        py::arg("level"));
    m.def("num_threads", &num_threads);
    m.def("set_num_threads", &set_num_threads, py::arg("count"));
}
