"""tallystick: the aggregation engine for federated learning among parties that do not trust one another."""

from . import aggregate, arrays, errors, frame, ledger, merkle, record, update, verify
from ._backend import cpu_best, cpu_level, cuda_status, num_threads, set_cpu_level, set_num_threads
from .errors import TallystickError
from .round import Round

__version__ = "0.1.0"

__all__ = [
    "Round",
    "TallystickError",
    "__version__",
    "aggregate",
    "arrays",
    "cpu_best",
    "cpu_level",
    "cuda_status",
    "errors",
    "frame",
    "ledger",
    "merkle",
    "num_threads",
    "record",
    "set_cpu_level",
    "set_num_threads",
    "update",
    "verify",
]
