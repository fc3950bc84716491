"""Calling one kernel of the CUDA backend with one block of a simulated GPU.

Every tensor is an allocation of its own, so that the simulator finds whatever is read or written
outside; outputs were never written before a call, which reads as NaN. What the contract does not
name as written must be unchanged to the bit.
"""

from typing import NamedTuple

import numpy as np
import pytest
from kernels import Absent
from simulator import Machine
from simulator.arithmetic import outer_product

from fastbp.backends.contract import KERNELS, Batch, Scalar
from fastbp.backends.cuda import language
from fastbp.backends.cuda.entries import Kernel, build_kernel
from fastbp.backends.cuda.product import staging_elements
from fastbp.backends.cuda.reductions import WARPS
from fastbp.backends.cuda.tuning import CONSTRAINED, DEPTH, THREADS, tile_shape

# Everything that the simulator can find, in all orders in which it runs threads.
CHECKED = [
    {"order": order, "seed": 5, "races": True, "uninitialised": "raise"}
    for order in ("forward", "reversed", "random")
]
# Whether a step finds its rows in shared memory, and whether it leaves them there.
FAR, NEAR, IN, OUT = (False, False), (True, True), (True, False), (False, True)
checked = pytest.mark.parametrize("options", CHECKED, ids=lambda options: options["order"])


def whole_parts(columns):
    """Columns that a product reads of rows in shared memory."""
    return -(-columns // DEPTH) * DEPTH


class Tensor:
    """A matrix in simulated memory, in panels or (`panel` None) row by row.

    Without values it was never written, padding included; otherwise the padding holds the zeros
    that the contract promises. Copies of one shape may lie one after the other.
    """

    def __init__(self, memory, rows, columns, dtype, values=None, panel=None, copies=1):
        self.memory, self.dtype, self.panel = memory, np.dtype(dtype), panel
        self.rows, self.columns, self.copies = rows, columns, copies
        unit = 1 if panel is None else 16 // self.dtype.itemsize
        self.padded = -(-columns // unit) * unit
        self.elements = rows * self.padded
        self.nbytes = copies * self.elements * self.dtype.itemsize
        self.address = memory.allocate(self.nbytes)
        self.entry = (self.address, rows, self.padded)
        if values is not None:
            self.write(values)

    def write(self, values):
        """Fill all copies, given as (copies, rows, columns) or as one for all."""
        matrices = np.zeros((self.copies, self.rows, self.padded), self.dtype)
        matrices[:, :, : self.columns] = np.reshape(values, (-1, self.rows, self.columns))
        flat = np.zeros((self.copies, self.elements), self.dtype)
        for columns, place in self.panels():
            part = matrices[:, :, columns]
            flat[:, place] = part.reshape(self.copies, -1)
        self.memory.write(self.address, flat)

    def panels(self):
        """Which columns each panel has, and where it lies."""
        panel = self.panel or self.padded
        for begin in range(0, self.padded, panel):
            end = min(begin + panel, self.padded)
            yield slice(begin, end), slice(begin * self.rows, end * self.rows)

    def read(self, copy=0, of=None):
        """The matrix with its padding, as it is or as it was in a snapshot."""
        flat = self.snapshot() if of is None else of
        flat = flat.view(self.dtype).reshape(self.copies, self.elements)[copy]
        return np.hstack([flat[place].reshape(self.rows, -1) for _, place in self.panels()])

    @property
    def matrix(self):
        return self.read()[:, : self.columns]

    def snapshot(self):
        return self.memory.read(self.address, np.uint8, self.nbytes)

    def padding_is_zero(self, rows=slice(None), copy=0):
        """Whether rows have zeros in their padding, as the next kernel expects."""
        return bool((self.read(copy)[rows, self.columns :] == 0).all())

    def changed(self, before, copy=0):
        """Which elements have other bits than in a snapshot, padding included."""
        bits = {4: np.int32, 8: np.int64}[self.dtype.itemsize]
        return self.read(copy).view(bits) != self.read(copy, before).view(bits)


class Layout(NamedTuple):
    """Where a step of the propagation pass has its parts of shared memory, in numbers."""

    source: int
    target: int
    stride: int
    staging: int
    total: int

    @property
    def place(self):
        return self[:4]


def layout(shape, near, source_columns=0, target_columns=0):
    """One part after the other, none at the begin; no more than what is needed."""
    panels = -(-max(source_columns, target_columns) // shape.columns)
    stride = panels * shape.columns + shape.vector
    source = 2 * shape.vector
    target = source + near[0] * shape.rows * stride
    staging = target + near[1] * shape.rows * stride
    total = staging + max(staging_elements(shape), shape.rows * shape.columns)
    return Layout(source, target, stride, staging, total)


class Gpu:
    """A machine, a number type and a tile: what a test's tensors and kernels share."""

    def __init__(self, dtype, tile=(64, 64), **options):
        self.dtype, self.tile = dtype, tile
        self.real = np.dtype(dtype).type
        self.shape = tile_shape(dtype, *tile)
        self.machine = Machine(**options)
        self.shared = None  # shared memory as the last kernel left it, as real numbers

    def matrix(self, rows, columns, values=None, copies=1):
        """A matrix of the plan, in panels."""
        memory, panel = self.machine.memory, self.tile[1]
        return Tensor(memory, rows, columns, self.dtype, values, panel, copies)

    def data(self, values, dtype=None):
        """An array row by row, such as a caller's."""
        values = np.atleast_2d(np.asarray(values, dtype or self.dtype))
        return Tensor(self.machine.memory, *values.shape, values.dtype, values)

    def unwritten(self, rows, columns, dtype=None):
        """An array row by row that was never written."""
        return Tensor(self.machine.memory, rows, columns, dtype or self.dtype)

    def scalars(self, **values):
        return self.places(Scalar, "float64", values)

    def batch(self, **values):
        return self.places(Batch, "int64", values)

    def places(self, names, dtype, values):
        vector = np.zeros(int(names.COUNT), dtype)
        for name, value in values.items():
            vector[names[name]] = value
        return self.data(vector, dtype)

    def near_rows(self, where, rows):
        """What shared memory holds before a step that finds its rows there.

        The rows are zero up to a multiple of the depth; all that is beyond is NaN.
        """
        held = np.full((self.shape.rows, where.stride), np.nan, self.dtype)
        held[: len(rows), : whole_parts(rows.shape[1])] = 0.0
        held[: len(rows), : rows.shape[1]] = rows
        return where.source, held.reshape(-1)

    def left_near(self, where, rows, columns):
        """The rows that a step left in shared memory, with what a product reads beyond them."""
        held = self.shared[where.target : where.target + self.shape.rows * where.stride]
        return held.reshape(self.shape.rows, where.stride)[:rows, : whole_parts(columns)]

    def shared_bytes(self, name):
        """What a kernel that keeps no rows there needs, in bytes."""
        panel = self.tile[1]
        if name in ("reduce_loss", "reduce_tiles", "finish_gradient"):
            return 8 * WARPS
        numbers = {
            "dense_weight_gradient": max(staging_elements(self.shape), self.tile[0] * panel),
            "dense_bias_gradient": THREADS,
            "transpose_weight": panel * (panel + 1),
            "constrain_weight": max(THREADS, min(CONSTRAINED, panel) * (panel + 1)),
        }
        return numbers.get(name, 0) * self.real().itemsize

    def call(
        self,
        name,
        tensors,
        sizes=(),
        first=0,
        last=0,
        *,
        part=(0, 1),
        where=None,
        near=(False, False),
        held=None,
        law=None,
        contract=None,
        **numbers,
    ):
        """Run a kernel; check that it wrote only what its contract says.

        `held` is (place, numbers) of shared memory before. Returns snapshots of all tensors before.
        """
        contract = KERNELS[contract or name]
        assert set(tensors) == set(contract.tensors), name
        absent = {key for key, tensor in tensors.items() if isinstance(tensor, Absent)}
        assert absent <= set(contract.optional), name
        assert len(sizes) == len(contract.sizes), name
        row = [n for argument in contract.tensors for n in tensors[argument].entry] + list(sizes)
        arguments = self.data(row, "int64")
        present = {key: tensors[key] for key in contract.tensors if key not in absent}
        before = {key: tensor.snapshot() for key, tensor in present.items()}
        entry = Kernel(name, law, self.tile, near, tuple(numbers.items()))
        kernel = build_kernel(entry, self.dtype, (self.real, np.int64, np.float64))
        place = where.place if where else (0, 0, 0, 0)
        nbytes = where.total * self.real().itemsize if where else self.shared_bytes(name)
        regions = []

        def run(address):
            if not regions:  # the first thread to run: as the step before left shared memory
                regions.append(self.machine.running.shared)
                self.hold(regions[0], held)
            kernel(language.as_pointer(address, np.int64), first, last, part, place)

        self.machine.launch(run, 1, THREADS, nbytes, (arguments.address,))
        self.shared = regions[0].content.view(self.dtype)
        writable = {*contract.writes, *contract.updates}
        for key, tensor in present.items():
            same = np.array_equal(tensor.snapshot(), before[key])
            assert same or key in writable, f"{name} wrote {key}"
        assert arguments.matrix[0].tolist() == row, f"{name} wrote its arguments"
        if where:
            self.check_shared(where, near, held)
        return before

    def hold(self, region, held):
        if held is None:
            return
        _, numbers, flags = region.view(self.real)
        begin, values = held
        numbers[begin : begin + len(values)] = values
        if flags is not None:
            flags[begin : begin + len(values)] = -1

    def check_shared(self, where, near, held):
        """Nothing before the parts of shared memory was written, nor the rows that were read."""
        assert (self.shared[: where.source].view(np.uint8) == 0xFF).all()
        if near[0]:
            begin, values = held
            now = self.shared[begin : begin + len(values)]
            assert np.array_equal(now, values, equal_nan=True)


def chain(left, right, dtype):
    """left @ right; each sum is one chain of fused multiply-adds in ascending order, as on a GPU."""
    sums = np.zeros((len(left), right.shape[1]), dtype)
    for k in range(left.shape[1]):
        outer_product(sums, left[:, k].astype(dtype), right[k].astype(dtype))
    return sums


def mapped(law, values, settings):
    """Both results of a law, element by element in the numbers' own type."""
    pairs = np.array([law(value, settings) for value in values.reshape(-1)], values.dtype)
    return pairs[:, 0].reshape(values.shape), pairs[:, 1].reshape(values.shape)


def normal(rng, dtype, *shape):
    return rng.normal(size=shape).astype(dtype)


def spans(rows, columns, panel, height):
    """Runs of at most `height` rows of each panel: (panel, row, first, last), as a plan's tiles."""
    for number in range(-(-columns // panel)):
        for row in range(0, rows, height):
            first = number * rows + row
            yield number, row, first, first + min(height, rows - row)
