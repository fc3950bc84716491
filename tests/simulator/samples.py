"""Kernels that the simulator's own tests share, and the orders in which they run them."""

from __future__ import annotations

import numpy as np
import pytest

from fastbp.backends.cuda import language

from .machine import Machine
from .memory import SimulationError

__all__ = [
    "ORDERS",
    "every_order",
    "fails",
    "make_grid_sum",
    "make_reduction",
    "new_counter",
    "numbers",
    "upload",
]

ORDERS = [
    {"order": "forward"},
    {"order": "reversed"},
    *({"order": "random", "seed": seed} for seed in range(3)),
    {"order": "random", "seed": 7, "races": True, "uninitialised": "raise"},
]
every_order = pytest.mark.parametrize("options", ORDERS, ids=str)


def fails(kernel, arguments, message, grid=1, block=32, shared=0, machine=None, **launch):
    machine = machine or Machine()
    with pytest.raises(SimulationError, match=message) as caught:
        machine.launch(kernel, grid, block, shared, arguments, **launch)
    assert language.machine is None
    return caught.value


def upload(machine, array):
    address = machine.memory.allocate(array.nbytes)
    machine.memory.write(address, array)
    return address


def numbers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def make_reduction(real, with_barrier=True):
    """Each block adds its share of `count` numbers through shared memory."""

    def reduction(source, target, count):
        me = language.thread()
        threads = language.threads()
        numbers = language.as_pointer(source, real)
        shared = language.shared_memory(real)
        total = real(0.0)
        for i in range(language.block() * threads + me, count, language.blocks() * threads):
            total += numbers[i]
        shared[me] = total
        half = threads // 2
        while half > 0:
            if with_barrier:
                language.barrier()
            if me < half:
                shared[me] += shared[me + half]
            half //= 2
        if me == 0:
            language.as_pointer(target, real)[language.block()] = shared[0]

    return reduction


def new_counter(machine):
    """The address of a counter for meetings of the grid."""
    address = machine.memory.allocate(8)
    machine.memory.fill(address, 8)
    return address


def make_grid_sum(real, with_barrier=True):
    """The sum of one number a block, in every block."""

    def grid_sum(source, partial, target, counter):
        me = language.thread()
        block = language.block()
        sums = language.as_pointer(partial, real)
        if me == 0:
            sums[block] = language.as_pointer(source, real)[block]
        if with_barrier:
            language.grid_barrier(language.as_pointer(counter, np.int64))
        if me == 0:
            total = real(0.0)
            for other in range(language.blocks()):
                total += sums[other]
            language.as_pointer(target, real)[block] = total

    return grid_sum
