"""Every way in for an array: the same memory where possible, one flagged copy where not, or a typed error."""

from __future__ import annotations

import array
import ctypes
import gc
import subprocess
import sys
import weakref

import ml_dtypes
import numpy as np
import pytest

from tallystick import arrays
from tallystick.errors import ArgumentError, DeviceError

DTYPES = list(arrays.FLOATING + arrays.INTEGER)
BF16 = ml_dtypes.bfloat16


def values(dtype, shape=(2, 3)):
    """Small integers in any dtype, with a zero so that bool has both values."""
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(arrays.numpy_dtype(dtype))


def address_of(x):
    return x.__array_interface__["data"][0]


# ---- NumPy ----


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (7,), (2, 3), (3, 0, 2), (2, 1, 4)])
def test_a_numpy_array_is_taken_where_it_lies(dtype, shape):
    x = values(dtype, shape)
    got = arrays.view(x)
    assert got.address == address_of(x)
    assert (got.shape, got.dtype, got.device, got.copied) == (shape, dtype, "cpu", False)
    assert got.size == x.size
    assert got.nbytes == x.nbytes
    assert got.numpy().dtype == x.dtype
    assert bytes(got.buffer()) == x.tobytes()
    np.testing.assert_array_equal(got.numpy(), x)
    if x.size:
        assert address_of(got.numpy()) == address_of(x)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_read_only_and_unaligned_memory_is_not_copied(dtype):
    x = values(dtype)
    backing = b"\xff" + x.tobytes()
    unaligned = np.frombuffer(backing, x.dtype, offset=1).reshape(x.shape)
    assert not unaligned.flags.writeable
    got = arrays.view(unaligned)
    assert got.address == address_of(unaligned)
    assert got.address == address_of(np.frombuffer(backing, np.uint8)) + 1
    assert not got.copied
    assert not got.writable
    assert not got.numpy().flags.writeable
    np.testing.assert_array_equal(got.numpy(), x)


def test_a_writable_array_stays_writable_through_its_view():
    x = values("float32")
    arrays.view(x).numpy()[1, 2] = 99
    assert x[1, 2] == 99


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
@pytest.mark.parametrize("cut", [np.s_[:, ::2], np.s_[::-1], np.s_[:, 1]])
def test_what_is_not_contiguous_is_copied_once_and_says_so(dtype, cut):
    x = values(dtype, (4, 6))[cut]
    got = arrays.view(x)
    assert got.copied
    assert not np.shares_memory(got.numpy(), x)
    np.testing.assert_array_equal(got.numpy(), x)


def test_fortran_order_is_copied_to_c_order():
    x = np.asfortranarray(values("float64", (3, 4)))
    assert bytes(arrays.view(x).buffer()) == x.tobytes(order="C")


def test_the_memory_lives_as_long_as_the_view_or_its_array():
    got = arrays.view(np.full(1000, 7.0)).numpy()
    gc.collect()
    assert (got == 7).all()


def test_a_view_of_a_view_is_itself():
    got = arrays.view(values("float32"))
    assert arrays.view(got) is got


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (np.zeros(3, ">f4"), ">f4.*big-endian"),
        (np.zeros(3, complex), "complex128.*allowed: bfloat16"),
        (np.array(["a", "b"]), "<U1"),
        (np.array([1, None], object), "object"),
        (np.zeros(3, ml_dtypes.float8_e4m3fn), "float8_e4m3fn"),
        (np.zeros(3, "datetime64[s]"), "datetime64"),
        (np.zeros(3, [("a", "f4")]), r"\('a', '<f4'\)"),
        (np.zeros(3, np.longdouble), "not a dtype of updates"),
        (np.ma.masked_array([1.0, 2.0], [0, 1]), "masked"),
        ([1.0, 2.0], "list is not an array"),
        ("text", "str is not an array"),
        (None, "NoneType is not an array"),
        (1.5, "float is not an array"),
        (np.ndarray, "type is not an array"),
    ],
)
def test_other_objects_and_dtypes_are_refused_by_name(given, named):
    with pytest.raises(ArgumentError, match=named):
        arrays.view(given)


def test_a_numpy_scalar_is_a_copied_array_of_no_dimensions():
    got = arrays.view(np.float32(1.5))
    assert (got.shape, got.dtype, got.copied, got.numpy()[()]) == ((), "float32", True, 1.5)


# ---- buffer protocol ----


@pytest.mark.parametrize(
    ("code", "dtype"), [("f", "float32"), ("d", "float64"), ("q", "int64"), ("B", "uint8")]
)
def test_a_buffer_is_taken_where_it_lies(code, dtype):
    x = array.array(code, [1, 2, 3])
    got = arrays.view(x)
    assert (got.address, got.shape, got.dtype) == (x.buffer_info()[0], (3,), dtype)
    assert not got.copied


def test_a_half_precision_memoryview_keeps_its_shape():
    x = values("float16")
    got = arrays.view(memoryview(x))
    assert (got.address, got.shape, got.dtype) == (address_of(x), (2, 3), "float16")


def test_a_buffer_cannot_be_resized_under_a_view():
    x = array.array("f", [1, 2, 3])
    got = arrays.view(x)
    with pytest.raises(BufferError):
        x.append(4)
    del got
    x.append(4)


@pytest.mark.parametrize(
    "given", [np.zeros(3, ">f8"), np.zeros(2, "c16"), np.zeros(2, "S3"), np.zeros(2, "i4,f4")]
)
def test_buffers_of_other_formats_are_refused(given):
    with pytest.raises(ArgumentError, match="format"):
        arrays.view(memoryview(given))


# ---- DLPack: an exporter of our own, so that every field can be wrong ----

capsule_new = ctypes.pythonapi.PyCapsule_New
capsule_new.restype = ctypes.py_object
DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
capsule_new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, DESTRUCTOR]


class Legacy(ctypes.Structure):
    _fields_ = (("tensor", arrays._DLTensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class Exporter:
    """An object with __dlpack__ over the memory of a NumPy array; fields of the DLTensor can be replaced."""

    def __init__(self, x, *, major=1, flags=0, versioned=True, **fields):
        self.x, self.major, self.flags, self.versioned, self.fields = x, major, flags, versioned, fields
        self.released = 0
        self.keep = []

    def __dlpack__(self, **options):
        if options and not self.versioned:
            raise TypeError("max_version is not known")
        whole = arrays._Versioned() if self.versioned else Legacy()
        if self.versioned:
            whole.major, whole.minor, whole.flags = self.major, 0, self.flags
        x, tensor = self.x, whole.tensor
        itemsize = x.dtype.itemsize
        shape = (ctypes.c_int64 * x.ndim)(*x.shape)
        strides = (ctypes.c_int64 * x.ndim)(*(s // itemsize for s in x.strides))
        code = 4 if x.dtype == BF16 else {"f": 2, "i": 0, "u": 1, "b": 6}[x.dtype.kind]
        defaults = {
            "data": address_of(x),
            "device_type": 1,
            "device_id": 0,
            "ndim": x.ndim,
            "code": code,
            "bits": 8 * itemsize,
            "lanes": 1,
            "shape": shape,
            "strides": strides,
            "byte_offset": 0,
        }
        for name, value in {**defaults, **self.fields}.items():
            if value is not None:
                setattr(tensor, name, value)
        destructor = DESTRUCTOR(self.release)
        self.keep += [whole, shape, strides, destructor]
        name = b"dltensor_versioned" if self.versioned else b"dltensor"
        return capsule_new(ctypes.addressof(whole), name, destructor)

    def release(self, _):
        self.released += 1


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dlpack_array_is_taken_where_it_lies(dtype, versioned):
    x = values(dtype)
    got = arrays.view(Exporter(x, versioned=versioned))
    assert (got.address, got.shape, got.dtype, got.device) == (address_of(x), (2, 3), dtype, "cpu")
    assert not got.copied
    np.testing.assert_array_equal(got.numpy(), x)


def test_a_dlpack_array_without_strides_and_with_an_offset_is_read_right():
    x = values("float32", (6,))
    got = arrays.view(Exporter(x[:4], strides=None, byte_offset=8))
    np.testing.assert_array_equal(got.numpy(), x[2:])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_strided_dlpack_array_is_copied_and_released_at_once(dtype):
    x = values(dtype, (4, 6))[:, ::2]
    exporter = Exporter(x)
    got = arrays.view(exporter)
    gc.collect()
    assert got.copied
    assert exporter.released == 1
    np.testing.assert_array_equal(got.numpy(), x)


def test_dlpack_memory_is_given_back_once_and_only_after_the_last_user():
    exporter = Exporter(values("float32"))
    got = arrays.view(exporter)
    as_numpy = got.numpy()
    del got
    gc.collect()
    assert exporter.released == 0
    del as_numpy
    gc.collect()
    assert exporter.released == 1


@pytest.mark.parametrize(("flags", "writable"), [(0, True), (1, False)])
def test_the_read_only_flag_of_dlpack_is_kept(flags, writable):
    assert arrays.view(Exporter(values("float32"), flags=flags)).writable is writable


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"code": 5, "bits": 64}, "complex64"),
        ({"code": 10, "bits": 8}, "DLPack type 10"),
        ({"bits": 128}, "float128"),
        ({"lanes": 2}, "2 lanes"),
        ({"device_type": 8}, "device 8"),
        ({"major": 2}, "version 2"),
    ],
)
def test_dlpack_of_another_kind_is_refused_and_released(fields, named):
    exporter = Exporter(values("float32"), **fields)
    with pytest.raises(ArgumentError, match=named):
        arrays.view(exporter)
    gc.collect()
    assert exporter.released == 1


def test_a_refusal_to_export_is_passed_on_in_words():
    class Refuses:
        def __dlpack__(self, **_):
            raise BufferError("on loan")

    with pytest.raises(ArgumentError, match="on loan"):
        arrays.view(Refuses())


def test_what_is_no_capsule_is_refused():
    class Lies:
        def __dlpack__(self, **_):
            return object()

    with pytest.raises(ArgumentError, match="not a DLPack capsule"):
        arrays.view(Lies())


def test_a_dlpack_array_on_a_cuda_device_says_which():
    got = arrays.view(Exporter(values("bfloat16"), device_type=2, device_id=3))
    assert (got.device, got.dtype) == ("cuda:3", "bfloat16")
    with pytest.raises(DeviceError, match="cuda:3"):
        got.numpy()


def test_a_strided_array_on_a_cuda_device_is_refused():
    with pytest.raises(ArgumentError, match="C-contiguous"):
        arrays.view(Exporter(values("float32", (4, 6))[:, ::2], device_type=2))


# ---- __cuda_array_interface__ ----


class Cuda:
    """Host memory that says it is on a CUDA device."""

    def __init__(self, x, **fields):
        defaults = {"shape": x.shape, "typestr": x.dtype.str, "data": (address_of(x), False), "version": 3}
        self.x = x
        self.__cuda_array_interface__ = {k: v for k, v in {**defaults, **fields}.items() if v != "absent"}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "bool"])
def test_a_cuda_array_gives_its_address_and_is_not_touched(dtype, version):
    x = values(dtype)
    got = arrays.view(Cuda(x, version=version, strides=x.strides, stream=7))
    assert (got.address, got.shape, got.dtype, got.device) == (address_of(x), (2, 3), dtype, "cuda:0")
    assert got.stream == 7
    assert got.writable


def test_the_device_number_of_cupy_is_kept():
    x = Cuda(values("float32"))
    x.device = type("Device", (), {"id": 2})()
    assert arrays.view(x).device == "cuda:2"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"version": 1}, "version 1"),
        ({"version": 4}, "version 4"),
        ({"version": "absent"}, "version 0"),
        ({"typestr": "<c8"}, "<c8"),
        ({"typestr": ">f4"}, ">f4"),
        ({"typestr": "<V2"}, "<V2"),
        ({"typestr": 5}, "typestr 5"),
        ({"mask": object()}, "masked"),
        ({"strides": (24, 8)}, "C-contiguous"),
        ({"shape": "absent"}, "without shape"),
        ({"data": None}, "without shape or data"),
    ],
)
def test_a_cuda_array_of_another_kind_is_refused(fields, named):
    with pytest.raises(ArgumentError, match=named):
        arrays.view(Cuda(values("float32"), **fields))


def test_a_cuda_bfloat16_array_goes_through_dlpack():
    exporter = Exporter(values("bfloat16"), device_type=2, device_id=1)
    exporter.__cuda_array_interface__ = {"typestr": "<V2", "shape": (2, 3), "data": (1, False), "version": 3}
    got = arrays.view(exporter)
    assert (got.dtype, got.device) == ("bfloat16", "cuda:1")


def test_an_interface_that_raises_counts_as_absent():
    class Moody(Exporter):
        @property
        def __cuda_array_interface__(self):
            raise RuntimeError("only on CUDA")

    assert arrays.view(Moody(values("float32"))).device == "cpu"


def test_a_device_array_goes_to_the_host_through_its_owner():
    x = values("float32")
    given = Cuda(x)
    with pytest.raises(ArgumentError, match=r"cuda:0.*torch"):
        arrays.to_host(arrays.view(given))
    given.get = lambda: x
    assert arrays.to_host(arrays.view(given)).address == address_of(x)
    on_host = arrays.view(x)
    assert arrays.to_host(on_host) is on_host


# ---- torch ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_torch_tensor_is_taken_where_it_lies(torch, dtype):
    x = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    got = arrays.view(x)
    assert (got.address, got.shape, got.dtype, got.device) == (x.data_ptr(), (2, 3), dtype, "cpu")
    assert not got.copied
    np.testing.assert_array_equal(got.numpy(), values(dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_trainable_parameter_is_detached_not_copied(torch, dtype):
    x = torch.nn.Parameter(torch.ones(5, dtype=getattr(torch, dtype)))
    got = arrays.view(x)
    assert got.address == x.data_ptr()
    assert not got.copied
    assert x.requires_grad


def test_a_torch_tensor_lives_as_long_as_its_view(torch):
    x = torch.ones(1000)
    storage = weakref.ref(x)
    got = arrays.view(x).numpy()
    del x
    gc.collect()
    assert (got == 1).all()
    del got
    gc.collect()
    assert storage() is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_strided_torch_tensor_is_copied_and_says_so(torch, dtype):
    x = torch.arange(12).reshape(3, 4).to(getattr(torch, dtype))
    got = arrays.view(x.t())
    assert got.copied
    np.testing.assert_array_equal(got.numpy(), values(dtype, (3, 4)).T)


def test_a_negated_torch_view_is_resolved(torch):
    x = torch.conj(torch.tensor([1 + 2j])).imag
    assert x.is_neg()
    got = arrays.view(x)
    assert got.copied
    assert got.numpy()[0] == -2


def test_other_torch_tensors_are_refused_by_name(torch):
    for given, named in [
        (torch.ones(2, 2).to_sparse(), "torch.sparse_coo"),
        (torch.ones(2, dtype=torch.complex64), "torch.complex64"),
        (torch.ones(2).to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
        (torch.ones(2, device="meta"), "device meta"),
    ]:
        with pytest.raises(ArgumentError, match=named):
            arrays.view(given)


@pytest.mark.parametrize("dtype", arrays.FLOATING)
def test_a_result_comes_back_as_a_torch_tensor_on_the_same_memory(torch, dtype):
    result = values(dtype)
    got = arrays.like(torch.ones(1), result)
    assert isinstance(got, torch.Tensor)
    assert got.dtype == getattr(torch, dtype)
    assert got.data_ptr() == address_of(result)
    np.testing.assert_array_equal(arrays.view(got).numpy(), result)


# ---- results, imports ----


def test_a_result_for_arrays_of_no_framework_is_the_numpy_array():
    result = values("float32")
    for template in (values("float32"), array.array("f", [1]), Exporter(result), Cuda(result)):
        assert arrays.like(template, result) is result


def test_jax_arrays_are_taken_where_they_lie_and_given_back(jax):
    for dtype in ("float32", "bfloat16"):
        x = jax.numpy.arange(6, dtype=dtype).reshape(2, 3)
        got = arrays.view(x)
        assert (got.address, got.dtype, got.copied) == (x.unsafe_buffer_pointer(), dtype, False)
        assert not got.writable
        back = arrays.like(x, got.numpy())
        assert isinstance(back, jax.Array)
        assert back.dtype == x.dtype


def test_no_framework_is_imported():
    code = "import sys, numpy, tallystick as ts; ts.arrays.view(numpy.ones(3)); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "cupy", "jax", "ml_dtypes", "safetensors"} & set(run.stdout.split())
