"""Which banks of shared memory the threads of a warp meet on when factors and sums pass through it.

Shared memory has 32 banks, each a word of 32 bits wide; what a warp asks of different words of one
bank is done one after the other. Vectors of 16 bytes go in quarters of a warp (CUDA programming
guide, shared memory). The places follow from the kernels' functions, called for one thread after
another.
"""

from collections import defaultdict
from itertools import zip_longest

import numpy as np
import pytest

from fastbp.backends.cuda import language, product, tensor_cores
from fastbp.backends.cuda.tuning import DEPTH, THREADS, tile_shape

BANKS, WARP, WORD_BYTES = 32, 32, 4
ITEM_BYTES = {"float32": 4, "float64": 8}
TILES = {
    "float32": [(128, 128), (64, 128), (16, 128), (64, 64), (32, 64), (16, 64), (64, 32), (32, 32)],
    "float64": [(64, 64), (32, 64), (16, 64), (64, 32), (32, 32), (16, 32)],
}


class Shared:
    """Shared memory that notes how many numbers are accessed at once, and from which on."""

    def __init__(self):
        self.accesses = []

    def note(self, count, place):
        self.accesses.append((count, int(place)))

    def __getitem__(self, place):
        self.note(1, place)
        return 0.0

    def __setitem__(self, place, value):
        self.note(1, place)


class Words:
    """The meaning of the words of `language` for one thread at a time that copies or adds."""

    def __init__(self, vector):
        self.vector, self.number = vector, 0

    def thread(self):
        return self.number

    def quotient(self, a, b):
        return a // b

    def remainder(self, a, b):
        return a % b

    def registers(self, count, kind):
        return [0.0] * count

    def load_vectors(self, target, index, source, place, apart, count):
        for j in range(count):
            source.note(self.vector, place + j * apart)

    def store_vectors(self, target, place, apart, row_apart, source, index, rows, count):
        for i in range(rows):
            for j in range(count):
                target.note(self.vector, place + i * row_apart + j * apart)

    def ignore(self, *arguments):
        """Words that touch no memory."""

    outer_product = round_to_tf32 = pack_bf16 = mma_tf32 = mma_bf16 = ignore


def turns(accesses, item):
    """How often the banks are asked by threads that access at once, and how often they must be."""
    vector = max((count for count, _ in accesses), default=1) * item
    group = min(WARP * WORD_BYTES // vector, WARP)
    asked = needed = 0
    for begin in range(0, len(accesses), group):
        words = defaultdict(set)
        for count, place in accesses[begin : begin + group]:
            first = place * item // WORD_BYTES
            for word in range(first, first + count * item // WORD_BYTES):
                words[word % BANKS].add(word)
        asked += max(map(len, words.values()))
        needed += 1
    return asked, needed


def conflicts(function, dtype, monkeypatch):
    """How many times as long as without any conflict a function of memory takes at the worst."""
    item, worst = ITEM_BYTES[dtype], 1.0
    machine = Words(16 // item)
    monkeypatch.setattr(language, "machine", machine)
    for first in range(0, THREADS, WARP):
        threads = []
        for machine.number in range(first, first + WARP):
            memory = Shared()
            function(memory)
            threads.append(memory.accesses)
        steps = [[access for access in step if access] for step in zip_longest(*threads)]
        asked, needed = map(sum, zip(*[turns(step, item) for step in steps or [[]]], strict=True))
        worst = max(worst, asked / max(needed, 1))
    return worst


every_tile = pytest.mark.parametrize(
    ("dtype", "rows", "columns"), [(d, *tile) for d, tiles in TILES.items() for tile in tiles]
)


@every_tile
def test_products_of_rows(dtype, rows, columns, monkeypatch):
    shape, real = tile_shape(dtype, rows, columns), np.dtype(dtype).type
    turned = product.is_large(shape)
    _, keep_left, left_count = product.fetch_rows(real, shape, columns, turned)
    _, keep_right, right_count = product.fetch_panel(real, shape, columns)
    stride = product.left_stride(shape)
    if turned:
        add = product.add_transposed_products(real, shape, exchanged=True)
        added = {"turned": lambda m: add([0.0] * 64, m, 0, DEPTH * rows)}
    else:
        add = product.add_products(real, shape)
        added = {
            "far": lambda m: add([0.0] * 64, m, 0, stride, m, rows * stride),
            "near": lambda m: add([0.0] * 64, m, 0, 256 + shape.vector, m, 0),
        }
    write = product.spill(shape, turned)
    found = {
        "left": lambda m: keep_left(m, 0, [0.0] * left_count),
        "right": lambda m: keep_right(m, 0, [0.0] * right_count),
        **added,
        "tile": lambda m: write(m, columns, []),
        "tile of near rows": lambda m: write(m, 256 + shape.vector, []),
    }
    counts = {name: conflicts(function, dtype, monkeypatch) for name, function in found.items()}
    # Rows of 16 numbers and a vector, two at a time: the second one wraps round by a vector. Once
    # a part of the depth, against some 100 loads of it.
    allowed = {"left": 2.0} if dtype == "float32" and not turned else {}
    assert counts == dict.fromkeys(found, 1.0) | allowed


@pytest.mark.parametrize(
    ("dtype", "side"), [(d, rows) for d, tiles in TILES.items() for rows, n in tiles if rows == n]
)
def test_products_of_transposed_rows(dtype, side, monkeypatch):
    shape, real = tile_shape(dtype, side, side), np.dtype(dtype).type
    _, keep, count = product.fetch_panel(real, shape, side)
    add = product.add_transposed_products(real, shape)
    write = product.spill(shape, True)
    for function in (
        lambda m: keep(m, 0, [0.0] * count),
        lambda m: add([0.0] * 64, m, 0, DEPTH * side),
        lambda m: write(m, side, []),
    ):
        assert conflicts(function, dtype, monkeypatch) == 1.0


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize(
    ("rows", "columns", "transposed"),
    [(128, 128, False), (64, 64, False), (16, 64, False), (128, 128, True), (64, 64, True)],
)
def test_products_on_tensor_cores(rows, columns, transposed, precision, monkeypatch):
    shape, real = tile_shape("float32", rows, columns), np.float32
    if transposed:
        _, keep_left, left_count = tensor_cores.copy_panel(real, rows, precision, "left")
    else:
        _, keep_left, left_count = tensor_cores.copy_rows(real, shape, precision)
    _, keep_right, right_count = tensor_cores.copy_panel(real, columns, precision, "right")
    add = tensor_cores.add_products(real, shape, precision)
    for function in (
        lambda m: keep_left(m, 0, [0.0] * left_count),
        lambda m: keep_right(m, 0, [0.0] * right_count),
        lambda m: add([], m, 0, tensor_cores.PART * rows),
    ):
        assert conflicts(function, "float32", monkeypatch) == 1.0


@pytest.mark.parametrize(
    ("place", "count", "expected"),
    [
        (lambda t: t, 1, 1.0),
        (lambda t: 0, 1, 1.0),  # one word for all
        (lambda t: 2 * t, 1, 2.0),
        (lambda t: 32 * t, 1, 32.0),
        (lambda t: 33 * t, 1, 1.0),
        (lambda t: 4 * t, 4, 1.0),
        (lambda t: 8 * t, 4, 2.0),
        (lambda t: 20 * (t // 4) + 4 * (t % 4), 4, 2.0),
    ],
)
def test_conflicts_are_counted(place, count, expected, monkeypatch):
    def access(memory):
        memory.note(count, place(language.thread()))

    assert conflicts(access, "float32", monkeypatch) == expected
