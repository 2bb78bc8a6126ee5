"""Any array as an address: NumPy, torch, CuPy, JAX, DLPack, __cuda_array_interface__, buffer protocol.

view() never imports a framework and copies nothing where the bytes allow it: contiguous data are taken where
they lie, read-only and unaligned ones too.  An array that is not C-contiguous is copied once
(ArrayView.copied). torch tensors that require a gradient are detached.  dtypes: the four floating ones,
integers and bool, in the machine's byte order; anything else is an ArgumentError that says what was given
and what is allowed.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ArgumentError, DeviceError

__all__ = ["FLOATING", "INTEGER", "ITEMSIZE", "ArrayView", "like", "numpy_dtype", "to_host", "view"]

FLOATING = ("bfloat16", "float16", "float32", "float64")
INTEGER = ("bool", "int16", "int32", "int64", "int8", "uint16", "uint32", "uint64", "uint8")
ITEMSIZE = {name: 2 if name == "bfloat16" else np.dtype(name).itemsize for name in FLOATING + INTEGER}
_ALLOWED = "allowed: " + ", ".join(FLOATING + INTEGER)
_KINDS = "a NumPy, torch, CuPy or JAX array, or an object with DLPack or the buffer protocol"


@dataclass(frozen=True)
class ArrayView:
    """Where an array's values lie: C-contiguous, any byte alignment, valid while this object lives."""

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: str = "cpu"  # "cpu" or "cuda:N"
    owner: object = field(default=None, repr=False, compare=False)  # keeps the memory alive
    copied: bool = False  # the input was not C-contiguous, or had to be resolved first
    writable: bool = False
    stream: int | None = None  # CUDA stream that a consumer has to wait for, __cuda_array_interface__ 3

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * ITEMSIZE[self.dtype]

    def numpy(self) -> NDArray[Any]:
        """The same memory as a NumPy array (bfloat16: ml_dtypes); read-only unless writable."""
        if self.device != "cpu":
            raise DeviceError(f"the array is on {self.device}: arrays.to_host() copies it")
        if self.size == 0:  # an empty array may have no address
            return np.empty(self.shape, numpy_dtype(self.dtype))
        array = np.asarray(_Export(self))
        return array.view(numpy_dtype(self.dtype)) if self.dtype == "bfloat16" else array

    def buffer(self) -> memoryview:
        """The same memory as read-only bytes."""
        if self.size == 0:
            return memoryview(b"")
        return self.numpy().reshape(-1).view(np.uint8).data.toreadonly()


class _Export:
    """Gives NumPy an address, and with it a reference to what keeps the address valid."""

    def __init__(self, source: ArrayView) -> None:
        typestr = "<u2" if source.dtype == "bfloat16" else np.dtype(source.dtype).str
        self.owner = source.owner
        self.__array_interface__ = {
            "version": 3,
            "shape": source.shape,
            "typestr": typestr,
            "data": (source.address, not source.writable),
        }


@functools.lru_cache(maxsize=32)
def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype of one of our names; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    return np.dtype(name)


def view(obj: object) -> ArrayView:
    """Where the values of an array lie; ArgumentError for what is no array, or of a dtype not allowed.

    obj: NumPy array (also ml_dtypes.bfloat16), torch tensor, anything with __cuda_array_interface__
    (version 2 or 3), __dlpack__, __array_interface__ or the buffer protocol.  Work pending on a CUDA array
    is ordered before the legacy default stream, or before ArrayView.stream.
    """
    if isinstance(obj, ArrayView):
        return obj
    if isinstance(obj, np.ndarray):
        return _from_numpy(obj, obj)
    torch = sys.modules.get("torch")
    tensor_type = getattr(torch, "Tensor", None)
    if tensor_type is not None and isinstance(obj, tensor_type):
        return _from_torch(obj)
    interface = _attribute(obj, "__cuda_array_interface__")
    has_dlpack = _attribute(obj, "__dlpack__") is not None
    if interface is not None and not (has_dlpack and _typestr_name(interface.get("typestr")) is None):
        return _from_cuda_interface(obj, interface)
    if _attribute(obj, "__array_interface__") is not None:
        return _from_numpy(np.asarray(obj), obj, copied=isinstance(obj, np.generic))
    if has_dlpack:
        return _from_dlpack(obj)
    try:
        exported = memoryview(obj)  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentError(f"{_named(obj)} is not an array: {_KINDS} expected") from None
    return _from_buffer(exported, obj)


def to_host(source: ArrayView) -> ArrayView:
    """The same values in CPU memory: source itself, or a copy made by the framework that owns it."""
    if source.device == "cpu":
        return source
    owner: Any = source.owner
    if isinstance(owner, tuple):  # (array, DLPack capsule)
        owner = owner[0]
    if hasattr(owner, "cpu"):  # torch
        return view(owner.cpu())
    if hasattr(owner, "get"):  # CuPy
        return view(owner.get())
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        return view(cupy.asnumpy(owner))
    raise ArgumentError(
        f"{_named(owner)} on {source.device} cannot be copied to the host: give a torch or CuPy array"
    )


def like(template: object, result: NDArray[Any]) -> Any:
    """result as the type of array that template is, on its device.

    result: a writable NumPy array of a dtype of ours.  torch shares its memory where template is on the
    CPU; JAX and CuPy copy it; for every other template the NumPy array itself is returned.
    """
    if type(template) is np.ndarray:
        return result
    module = type(template).__module__.partition(".")[0]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(template, torch.Tensor):
        if result.dtype.name == "bfloat16":
            tensor = torch.from_numpy(result.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(result)
        return tensor.to(template.device)
    if module == "cupy" and "cupy" in sys.modules:
        return sys.modules["cupy"].asarray(result)
    if module in ("jax", "jaxlib") and "jax" in sys.modules:
        return sys.modules["jax"].numpy.asarray(result)
    return result


# ---- one function per way in ----


def _from_numpy(array: NDArray[Any], given: object, *, copied: bool = False) -> ArrayView:
    if isinstance(array, np.ma.MaskedArray):
        raise ArgumentError("a masked array is not an update: fill it first, for example with .filled(0)")
    name = _name(array.dtype)
    if name is None:
        raise ArgumentError(f"{_named(given)} of dtype {array.dtype}: not a dtype of updates; {_ALLOWED}")
    if not array.dtype.isnative:
        raise ArgumentError(
            f"{_named(given)} of dtype {array.dtype.str}: big-endian values; little-endian ones allowed,"
            " see ndarray.astype"
        )
    if not array.flags.c_contiguous:
        array, copied = np.ascontiguousarray(array), True
    address = int(array.__array_interface__["data"][0])
    writable = bool(array.flags.writeable)
    return ArrayView(address, array.shape, name, "cpu", array, copied, writable)


def _from_torch(tensor: Any) -> ArrayView:
    name = str(tensor.dtype).removeprefix("torch.")
    if str(tensor.layout) != "torch.strided":
        raise ArgumentError(
            f"a torch tensor of layout {tensor.layout}: dense ones allowed, see Tensor.to_dense"
        )
    if name not in ITEMSIZE:
        raise ArgumentError(f"a torch tensor of dtype {tensor.dtype}: not a dtype of updates; {_ALLOWED}")
    if tensor.device.type not in ("cpu", "cuda"):
        raise ArgumentError(f"a torch tensor on device {tensor.device}: cpu and cuda allowed")
    device = "cpu" if tensor.device.type == "cpu" else f"cuda:{tensor.device.index or 0}"
    tensor = tensor.detach()
    copied = bool(tensor.is_neg()) or not tensor.is_contiguous()
    if copied:
        tensor = tensor.resolve_neg().contiguous()
    try:
        address = int(tensor.data_ptr())
    except RuntimeError as error:  # fake and functional tensors have no memory
        raise ArgumentError(f"{_named(tensor)} has no memory of its own: {error}") from None
    return ArrayView(address, tuple(tensor.shape), name, device, tensor, copied, True)


def _from_cuda_interface(obj: Any, interface: dict[str, Any]) -> ArrayView:
    version = interface.get("version", 0)
    if version not in (2, 3):
        raise ArgumentError(f"{_named(obj)}: __cuda_array_interface__ version {version}; 2 and 3 allowed")
    if interface.get("mask") is not None:
        raise ArgumentError(f"{_named(obj)}: a masked array is not an update")
    name = _typestr_name(interface.get("typestr"))
    if name is None:
        raise ArgumentError(f"{_named(obj)}: typestr {interface.get('typestr')!r} is not allowed; {_ALLOWED}")
    try:
        shape = tuple(int(n) for n in interface["shape"])
        address, read_only = interface["data"]
    except (KeyError, TypeError, ValueError):
        raise ArgumentError(f"{_named(obj)}: __cuda_array_interface__ without shape or data") from None
    strides = interface.get("strides")
    if strides is not None and not _is_contiguous(shape, tuple(strides), ITEMSIZE[name]):
        cupy = sys.modules.get("cupy")
        if cupy is None:
            raise ArgumentError(f"{_named(obj)} on a CUDA device is not C-contiguous: give a contiguous copy")
        dense = view(cupy.ascontiguousarray(cupy.asarray(obj)))
        return ArrayView(dense.address, dense.shape, dense.dtype, dense.device, dense.owner, True, True)
    number = getattr(getattr(obj, "device", None), "id", 0)  # CuPy; others do not say
    number = number if isinstance(number, int) else 0
    stream = interface.get("stream")
    return ArrayView(int(address or 0), shape, name, f"cuda:{number}", obj, False, not read_only, stream)


def _from_buffer(exported: memoryview, given: object) -> ArrayView:
    order, code = exported.format[:-1], exported.format[-1:]
    if order in (">", "!"):
        raise ArgumentError(
            f"a buffer of format {exported.format!r}: big-endian values; little-endian ones allowed"
        )
    if order not in ("", "@", "=", "<") or code not in "edfbBhHiIlLqQ?":
        raise ArgumentError(
            f"{_named(given)}: a buffer of format {exported.format!r} is not allowed; {_ALLOWED}"
        )
    return _from_numpy(np.asarray(exported), given)


# ---- DLPack: the capsule is read in place and kept; its destructor gives the memory back ----


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    ]


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_capsule_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_capsule_is_valid.restype, _capsule_is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]

_READ_ONLY = 1  # flag of DLManagedTensorVersioned
_DL_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}
_DL_CPU, _DL_CUDA, _DL_CUDA_HOST, _DL_CUDA_MANAGED = 1, 2, 3, 13


def _from_dlpack(obj: Any) -> ArrayView:
    try:
        try:
            capsule = obj.__dlpack__(max_version=(1, 1))
        except TypeError:
            capsule = obj.__dlpack__()
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(f"{_named(obj)} refuses DLPack: {error}") from None
    tensor, writable = _open_capsule(obj, capsule)
    kind = _DL_KINDS.get(tensor.code, f"DLPack type {tensor.code}, ")
    name = "bool" if kind == "bool" and tensor.bits == 8 else f"{kind}{tensor.bits}"
    if name not in ITEMSIZE or tensor.lanes != 1:
        raise ArgumentError(
            f"{_named(obj)} of dtype {name} with {tensor.lanes} lanes: not allowed; {_ALLOWED}"
        )
    if tensor.device_type in (_DL_CPU, _DL_CUDA_HOST):
        device = "cpu"
    elif tensor.device_type in (_DL_CUDA, _DL_CUDA_MANAGED):
        device = f"cuda:{tensor.device_id}"
    else:
        raise ArgumentError(f"{_named(obj)} on DLPack device {tensor.device_type}: CPU and CUDA allowed")
    itemsize = ITEMSIZE[name]
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    address = (tensor.data or 0) + tensor.byte_offset
    owner = (obj, capsule)
    if tensor.strides:
        strides = tuple(tensor.strides[i] * itemsize for i in range(tensor.ndim))
        if not _is_contiguous(shape, strides, itemsize):
            if device != "cpu":
                raise ArgumentError(f"{_named(obj)} on {device} is not C-contiguous: give a contiguous copy")
            return _copy_strided(ArrayView(address, shape, name, owner=owner), strides)
    return ArrayView(address, shape, name, device, owner, False, writable)


def _open_capsule(obj: object, capsule: object) -> tuple[_DLTensor, bool]:
    if _capsule_is_valid(capsule, b"dltensor_versioned"):
        managed = _Versioned.from_address(_capsule_pointer(capsule, b"dltensor_versioned"))
        if managed.major != 1:
            raise ArgumentError(f"{_named(obj)}: DLPack version {managed.major}; 0 and 1 allowed")
        return managed.tensor, not managed.flags & _READ_ONLY
    if _capsule_is_valid(capsule, b"dltensor"):
        return _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor")), False  # it cannot tell
    raise ArgumentError(f"{_named(obj)}: __dlpack__ gave {_named(capsule)}, not a DLPack capsule")


def _copy_strided(source: ArrayView, strides: tuple[int, ...]) -> ArrayView:
    export = _Export(source)
    export.__array_interface__["strides"] = strides
    copy = np.array(np.asarray(export), order="C")
    return ArrayView(int(copy.ctypes.data), source.shape, source.dtype, "cpu", copy, True, True)


# ---- helpers ----


@functools.lru_cache(maxsize=256)
def _name(dtype: np.dtype[Any]) -> str | None:
    """Our name of a dtype in any byte order; cached, for NumPy takes microseconds to spell it."""
    return dtype.name if dtype.name in ITEMSIZE else None


def _typestr_name(typestr: object) -> str | None:
    try:
        dtype = np.dtype(typestr) if isinstance(typestr, str) else None
    except TypeError:
        return None
    return dtype.name if dtype is not None and dtype.isnative and dtype.name in ITEMSIZE else None


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    expected = itemsize
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length == 0:
            return True
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def _attribute(obj: object, name: str) -> Any:
    """obj.name, or None; some frameworks raise errors of their own for a missing interface."""
    if isinstance(obj, type):
        return None
    try:
        return getattr(obj, name, None)
    except Exception:
        return None


def _named(obj: object) -> str:
    kind = type(obj)
    prefix = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{prefix}{kind.__qualname__}"
