"""The words of tensor cores on a simulated GPU, against NumPy and the PTX ISA's lists of fragments."""

import numpy as np
import pytest
from cuda_kernels import normal
from kernels import generator
from precisions import DEPTH, precisions, product, rounded
from simulator import Machine, SimulationError
from simulator.samples import every_order, upload

from fastbp.backends.cuda import language

TIES = np.array([1 + k * 2.0**-n for n in (8, 11) for k in range(-3, 4)] + [0.0, -0.0, 3e-30])


@precisions
def test_rounding(precision):
    values = np.concatenate([TIES, -TIES, normal(generator(1), "float32", 99)]).astype(np.float32)
    values = values[: len(values) // 2 * 2]
    count = len(values)

    def kernel(source, target):
        numbers = language.as_pointer(source, np.float32)
        words = language.as_pointer(target, np.float32)
        held, found = language.registers(count, np.float32), language.registers(count, np.float32)
        for i in range(count):
            held[i] = numbers[i]
        if precision == "tf32":
            language.round_to_tf32(found, 0, held, 0, 1, count)
        else:
            language.pack_bf16(found, 0, held, 0, 1, 2, count // 2)
            for i in range(count // 2, count):
                found[i] = held[i]
        for i in range(count):
            words[i] = found[i]

    machine = Machine()
    source, target = upload(machine, values), machine.memory.allocate(4 * count)
    machine.launch(kernel, 1, 1, 0, (source, target))
    found = machine.memory.read(target, np.float32, count)
    if precision == "bf16":  # the first of two numbers is in the lower half of a word
        found = found[: count // 2].view("<u2").astype(np.uint32) << 16
        found = found.view(np.float32)
    assert np.array_equal(found, rounded(values, precision))
    assert np.array_equal(np.signbit(found), np.signbit(values))


def fragment_places(precision, lane):
    """Where a thread's numbers lie: of the 16 x k, k x 8 and 16 x 8 matrices of an instruction.

    As the PTX ISA lists them: a_i and b_i in order, two in a register of bf16; c_i.
    """
    group, member = lane >> 2, lane % 4
    if precision == "tf32":
        left = [(group + 8 * (i % 2), member + 4 * (i // 2)) for i in range(4)]
        right = [(member + 4 * i, group) for i in range(2)]
    else:
        left = [
            (group + 8 * (not (i < 2 or 4 <= i < 6)), member * 2 + (i & 1) + 8 * (i >= 4))
            for i in range(8)
        ]
        right = [(member * 2 + (i & 1) + 8 * (i >= 2), group) for i in range(4)]
    sums = [(group + 8 * (i >= 2), member * 2 + (i & 1)) for i in range(4)]
    return left, right, sums


def multiply_fragments(precision, A, B, C, machine, threads=64, meets=lambda thread: True):
    """C + A @ B with one word, whose fragments are filled from memory; two warps do the same."""
    high, wide = len(C) // 16, C.shape[1] // 8
    k = DEPTH[precision]
    mma = {"tf32": language.mma_tf32, "bf16": language.mma_bf16}[precision]
    places = [fragment_places(precision, lane) for lane in range(32)]

    def kernel(left, right, sums):
        a = language.as_pointer(left, np.float32)
        b = language.as_pointer(right, np.float32)
        c = language.as_pointer(sums, np.float32)
        held = language.registers(8, np.float32)
        x = language.registers(4 * high, np.float32)
        y = language.registers(2 * wide, np.float32)
        z = language.registers(4 * high * wide, np.float32)
        warp = language.thread() // 32
        of_left, of_right, of_sums = places[language.thread() % 32]

        def convert(target, index, count):
            if precision == "tf32":
                language.round_to_tf32(target, index, held, 0, 1, count)
            else:
                language.pack_bf16(target, index, held, 0, 1, 2, count)

        for i in range(high):
            for n, (row, column) in enumerate(of_left):
                held[n] = a[(16 * i + row) * k + column]
            convert(x, 4 * i, 4)
        for j in range(wide):
            for n, (row, column) in enumerate(of_right):
                held[n] = b[row * 8 * wide + 8 * j + column]
            convert(y, 2 * j, 2)
        for i in range(high):
            for j in range(wide):
                for n, (row, column) in enumerate(of_sums):
                    at = ((warp * high + i) * 16 + row) * 8 * wide + 8 * j + column
                    z[(4 * i + n) * wide + j] = c[at]
        if meets(language.thread()):
            mma(z, x, y, high, wide)
        for i in range(high):
            for j in range(wide):
                for n, (row, column) in enumerate(of_sums):
                    at = ((warp * high + i) * 16 + row) * 8 * wide + 8 * j + column
                    c[at] = z[(4 * i + n) * wide + j]

    sums = np.concatenate([C] * (threads // 32 or 1))
    addresses = [upload(machine, np.ascontiguousarray(each)) for each in (A, B, sums)]
    machine.launch(kernel, 1, threads, 0, tuple(addresses))
    return machine.memory.read(addresses[2], np.float32, sums.size).reshape(sums.shape)


def fragments(precision, high=2, wide=3):
    rng, k = generator(5), DEPTH[precision]
    shapes = ((16 * high, k), (k, 8 * wide), (16 * high, 8 * wide))
    return [normal(rng, "float32", *shape) for shape in shapes]


@every_order
@precisions
def test_products_of_fragments(precision, options):
    A, B, C = fragments(precision)
    found = multiply_fragments(precision, A, B, C, Machine(**options))
    expected, bound = product(A, B, precision)
    for warp in np.split(found, 2):
        assert (np.abs(warp - (expected + C)) <= bound + 2.0**-24 * np.abs(C)).all()


@precisions
def test_a_product_needs_a_whole_warp(precision):
    matrices = fragments(precision)
    with pytest.raises(SimulationError, match="warp of less than 32"):
        multiply_fragments(precision, *matrices, Machine(), threads=16)
    with pytest.raises(SimulationError, match="divergent"):
        multiply_fragments(precision, *matrices, Machine(), meets=lambda thread: thread != 7)


def test_a_product_takes_registers():
    def kernel(address):
        numbers = language.as_pointer(address, np.float32)
        sums, right = language.registers(4, np.float32), language.registers(2, np.float32)
        language.mma_tf32(sums, numbers, right, 1, 1)

    machine = Machine()
    with pytest.raises(SimulationError, match="no registers"):
        machine.launch(kernel, 1, 32, 0, (upload(machine, np.zeros(4, np.float32)),))
