"""Calling one compiled kernel on tensors with poisoned padding, poisoned outputs and canaries."""

import ctypes

import numpy as np
import pytest

from fastbp.backends.contract import KERNELS, Batch, Scalar
from fastbp.backends.cpu.engine import bind_kernel
from fastbp.backends.cpu.machine_code import bind_product
from fastbp.backends.cpu.tuning import PANEL_LINES, tile_shape
from fastbp.plan import Step

GUARD = 16  # elements on either side
CANARY = 12345.0
INTEGER_POISON = -(2**40)


# (rows, features, units): 1, primes, and tile - 1, tile, tile + 1 of register tiles (8 rows, 8, 16 or
# 32 columns) and of blocks of 64 rows.
SHAPES = [
    (1, 1, 1),
    (2, 3, 5),
    (3, 7, 2),
    (4, 4, 64),
    (5, 8, 65),
    (7, 13, 63),
    (8, 64, 16),
    (9, 65, 17),
    (31, 5, 31),
    (33, 63, 7),
    (6, 127, 129),
    (4, 128, 1),
    (1, 67, 70),
    (63, 32, 33),
    (64, 33, 32),
    (65, 16, 48),
    (130, 20, 8),
    (9, 300, 40),
    (3, 530, 5),
    (270, 6, 3),
]
DTYPES = ["float32", "float64"]
# Sums have up to 129 terms of size one; rounding grows like their number at worst.
BOUND = {"float32": 64 * 2**-23, "float64": 64 * 2**-52}

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def close(found, expected, dtype):
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    assert np.all(np.isfinite(found))
    assert np.max(np.abs(found - expected), initial=0.0) <= BOUND[dtype] * scale


def generator(*key):
    return np.random.default_rng([*key])


def panel_columns(dtype):
    """Columns of a whole panel: four lines of 64 bytes."""
    return 256 // np.dtype(dtype).itemsize


class Tensor:
    """A matrix in memory of its own, canaries round it, in panels or (data) row by row.

    With `values` None all of it is poisoned, as an output should be before a call; otherwise the
    padding holds the zeros that the contract promises.
    """

    def __init__(self, rows, columns, dtype, values=None, padded=True):
        unit = 64 // np.dtype(dtype).itemsize
        self.rows, self.columns, self.is_padded = rows, columns, padded
        self.padded_columns = -(-columns // unit) * unit if padded else columns
        poison = INTEGER_POISON if np.dtype(dtype).kind == "i" else np.nan
        elements = rows * self.padded_columns
        raw = np.empty(elements + 2 * GUARD + unit, dtype=dtype)
        start = GUARD + (-(raw.ctypes.data + GUARD * raw.itemsize) % 64) // raw.itemsize
        raw[:] = CANARY
        self.raw, self.start, self.elements = raw, start, elements
        self.whole = raw[start : start + elements]
        self.whole[:] = poison if values is None else 0
        if values is not None:
            self.fill(np.asarray(values).reshape(rows, columns))

    def panels(self, flat=None):
        """Views of the panels, (rows, columns with padding) each."""
        flat = self.whole if flat is None else flat
        panel = panel_columns(self.raw.dtype) if self.is_padded else self.padded_columns
        for column in range(0, self.padded_columns, panel):
            width = min(panel, self.padded_columns - column)
            yield flat[column * self.rows : (column + width) * self.rows].reshape(self.rows, width)

    def fill(self, matrix):
        column = 0
        for panel in self.panels():
            part = matrix[:, column : min(column + panel.shape[1], self.columns)]
            panel[:, : part.shape[1]] = part
            column += panel.shape[1]

    def read(self, flat=None):
        """The matrix with its padding."""
        return np.hstack(list(self.panels(flat)))

    @property
    def matrix(self):
        """A copy of the matrix; a view where it has one row."""
        if self.rows == 1:
            return self.whole[: self.columns].reshape(1, self.columns)
        return self.read()[:, : self.columns]

    @property
    def entry(self):
        return [self.whole.ctypes.data, self.rows, self.padded_columns]

    def snapshot(self):
        return self.whole.copy()

    def outside_untouched(self, before):
        """Canaries whole, padding as it was or zero."""
        padding, old = (self.read(of)[:, self.columns :] for of in (None, before))
        same = (padding == old) | (np.isnan(padding) & np.isnan(old)) | (padding == 0)
        return self.guards_untouched() and bool(same.all())

    def guards_untouched(self):
        """Canaries whole."""
        flat = self.raw
        guards = np.concatenate([flat[: self.start], flat[self.start + self.elements :]])
        return bool((guards == CANARY).all())

    def padding_is_zero(self, first, last):
        """Whether some rows have zeros in their padding, as the next kernel expects."""
        return bool((self.read()[first:last, self.columns :] == 0).all())


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
        numbers += [bind_product(dtype, tile_shape(lines)) for lines in range(1, PANEL_LINES + 1)]
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
        if name.endswith("_in_lanes") and key in writable:  # whole panels are written
            assert tensor.guards_untouched(), f"{name} wrote outside {key}"
            continue
        assert tensor.outside_untouched(before[key]), f"{name} wrote outside {key}"
        if key not in writable:
            assert np.array_equal(tensor.whole, before[key], equal_nan=True), f"{name} wrote {key}"
    return before


def rows_untouched(tensor, before, first, last):
    """Whether rows outside a range are as they were."""
    outside = np.r_[0:first, last : tensor.rows]
    now, then = tensor.read()[outside], tensor.read(before)[outside]
    return np.array_equal(now, then, equal_nan=True)
