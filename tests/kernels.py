"""Calling one compiled kernel on tensors with poisoned padding, poisoned outputs and canaries."""

import ctypes

import numpy as np

from fastbp.backends.contract import KERNELS, Batch, Scalar
from fastbp.backends.cpu import product
from fastbp.backends.cpu.compiler import compile_product
from fastbp.backends.cpu.engine import bind_kernel
from fastbp.plan import Step

GUARD = 16  # elements on either side
CANARY = 12345.0
INTEGER_POISON = -(2**40)


class Tensor:
    """A matrix in memory of its own: canaries round it, NaN in its padding.

    With `values` None the whole matrix is poisoned, as an output should be before a call.
    """

    def __init__(self, rows, columns, dtype, values=None, padded=True):
        unit = 64 // np.dtype(dtype).itemsize
        self.rows, self.columns = rows, columns
        self.leading_dimension = -(-columns // unit) * unit if padded else columns
        poison = INTEGER_POISON if np.dtype(dtype).kind == "i" else np.nan
        elements = rows * self.leading_dimension
        raw = np.empty(elements + 2 * GUARD + unit, dtype=dtype)
        start = GUARD + (-(raw.ctypes.data + GUARD * raw.itemsize) % 64) // raw.itemsize
        raw[:] = CANARY
        self.raw, self.start, self.elements = raw, start, elements
        raw[start : start + elements] = poison
        self.whole = raw[start : start + elements].reshape(rows, self.leading_dimension)
        self.matrix = self.whole[:, :columns]
        if values is not None:
            self.matrix[...] = np.asarray(values).reshape(rows, columns)

    @property
    def entry(self):
        return [self.whole.ctypes.data, self.rows, self.leading_dimension]

    def snapshot(self):
        return self.whole.copy()

    def outside_untouched(self, before):
        """Canaries whole, padding as it was."""
        flat = self.raw
        guards = np.concatenate([flat[: self.start], flat[self.start + self.elements :]])
        padding = np.array_equal(
            self.whole[:, self.columns :], before[:, self.columns :], equal_nan=True
        )
        return bool((guards == CANARY).all()) and padding


class Absent:
    """A data tensor that is not there."""

    entry = (0, 0, 0)


def vector(values, dtype):
    values = np.atleast_1d(np.asarray(values, dtype=dtype))
    return Tensor(1, len(values), dtype, values)


def scalars_tensor(**values):
    tensor = Tensor(1, int(Scalar.COUNT), "float64", np.zeros(int(Scalar.COUNT)))
    for name, value in values.items():
        tensor.matrix[0, Scalar[name]] = value
    return tensor


def batch_tensor(**values):
    tensor = Tensor(1, int(Batch.COUNT), "int64", np.zeros(int(Batch.COUNT)))
    for name, value in values.items():
        tensor.matrix[0, Batch[name]] = value
    return tensor


def row_of_arguments(name, tensors, sizes, dtype):
    contract = KERNELS[name]
    assert set(tensors) == set(contract.tensors), name
    absent = {key for key, tensor in tensors.items() if isinstance(tensor, Absent)}
    assert absent <= set(contract.optional), name
    assert len(sizes) == len(contract.sizes), name
    numbers = [n for argument in contract.tensors for n in tensors[argument].entry]
    numbers += list(sizes)
    if contract.product:
        numbers.append(compile_product(product.multiply_tile, dtype))
    return np.array(numbers, dtype=np.int64)


def call(name, dtype, tensors, sizes, first_row, last_row, law=None):
    """Run a kernel; check that it wrote only what its contract says, where it may."""
    contract = KERNELS[name]
    present = {k: t for k, t in tensors.items() if isinstance(t, Tensor)}
    before = {k: t.snapshot() for k, t in present.items()}
    arguments = row_of_arguments(name, tensors, sizes, dtype)
    address = bind_kernel(Step(name, contract.tensors, tuple(sizes), law), dtype)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)
    function(arguments.ctypes.data, first_row, last_row)
    writable = {*contract.writes, *contract.updates}
    for key, tensor in present.items():
        assert tensor.outside_untouched(before[key]), f"{name} wrote outside {key}"
        if key not in writable:
            assert np.array_equal(tensor.whole, before[key], equal_nan=True), f"{name} wrote {key}"
    return before


def rows_untouched(tensor, before, first_row, last_row):
    """Whether rows outside a range are as they were."""
    outside = np.r_[0:first_row, last_row : tensor.rows]
    return np.array_equal(tensor.whole[outside], before[outside], equal_nan=True)
