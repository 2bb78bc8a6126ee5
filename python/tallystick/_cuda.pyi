import numpy as np
import numpy.typing as npt

def device_count() -> tuple[int, str]: ...
def emulated() -> bool: ...

# aggregate: pointers and out are device addresses, stream is a cudaStream_t
def mean(
    pointers: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    dtype: str,
    weights: npt.NDArray[np.float64] | None,
    out: int,
    stream: int,
) -> list[int]: ...
def median(
    pointers: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    dtype: str,
    kind: str,
    out: int,
    stream: int,
) -> list[int]: ...
def trimmed_mean(
    pointers: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    dtype: str,
    f: int,
    out: int,
    stream: int,
) -> list[int]: ...
def meamed(
    pointers: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    dtype: str,
    f: int,
    out: int,
    stream: int,
) -> list[int]: ...
def phocas(
    pointers: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    dtype: str,
    f: int,
    out: int,
    stream: int,
) -> list[int]: ...
def majority(
    pointers: npt.NDArray[np.uint64], bounds: npt.NDArray[np.int64], dtype: str, out: int, stream: int
) -> list[int]: ...
def nonfinite(
    pointers: npt.NDArray[np.uint64], bounds: npt.NDArray[np.int64], dtype: str, stream: int
) -> list[int]: ...
def combine(
    pointers: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    dtype: str,
    weights: npt.NDArray[np.float64],
    out: int,
    stream: int,
) -> list[int]: ...
def mixed(
    pointers: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    dtype: str,
    matrix: npt.NDArray[np.float64],
    rule: str,
    argument: int | str,
    out: int,
    stream: int,
) -> list[int]: ...

# part and total are host memory; after the last chunk: _core.distances_finish
def distances(
    pointers: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    dtype: str,
    column: int,
    part: npt.NDArray[np.float64],
    total: npt.NDArray[np.float64],
    stream: int,
) -> list[int]: ...
def products(
    pointers: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    dtype: str,
    column: int,
    part: npt.NDArray[np.float64],
    total: npt.NDArray[np.float64],
    stream: int,
) -> list[int]: ...
def norms(
    pointers: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    dtype: str,
    column: int,
    part: npt.NDArray[np.float64],
    total: npt.NDArray[np.float64],
    stream: int,
) -> list[int]: ...
def distances_to(
    pointers: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    dtype: str,
    row: int,
    column: int,
    part: npt.NDArray[np.float64],
    total: npt.NDArray[np.float64],
    stream: int,
) -> list[int]: ...
def products_with(
    pointers: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    dtype: str,
    row: int,
    column: int,
    part: npt.NDArray[np.float64],
    total: npt.NDArray[np.float64],
    stream: int,
) -> list[int]: ...
