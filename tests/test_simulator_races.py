"""The simulated GPU finds threads that meet in memory with no barrier between."""

import numpy as np
import pytest
from simulator import Machine
from simulator.samples import every_order, fails, make_grid_sum, new_counter, numbers, upload

from fastbp.backends.cuda import language


def exchange(source, target, with_barrier, by_read):
    """Threads pass numbers on through global memory, one block."""
    me = language.thread()
    other = (me + 1) % language.threads()
    a = language.as_pointer(source, np.float32)
    b = language.as_pointer(target, np.float32)
    if by_read:
        value = a[other]
        if with_barrier:
            language.barrier()
        a[me] = value
    else:
        b[me] = a[me]
        if with_barrier:
            language.barrier()
        b[other] = a[me]


@pytest.mark.parametrize("by_read", [0, 1])
@every_order
def test_races_within_a_block(options, by_read):
    machine = Machine(**options | {"races": True})
    source, target = upload(machine, numbers(32)), machine.memory.allocate(128)
    machine.launch(exchange, 1, 32, 0, (source, target, 1, by_read))
    fails(exchange, (source, target, 0, by_read), "race: .*global memory", machine=machine)


@every_order
def test_races_between_blocks(options):
    machine = Machine(**options | {"races": True, "uninitialised": "allow"})
    source, partial, target = (upload(machine, numbers(4)) for _ in range(3))
    arguments = source, partial, target, new_counter(machine)
    machine.launch(make_grid_sum(np.float32), 4, 32, 0, arguments, cooperative=True)
    kernel = make_grid_sum(np.float32, with_barrier=False)
    for cooperative in (False, True):
        fails(kernel, arguments, "race: ", 4, 32, 0, machine, cooperative=cooperative)


def test_a_read_of_one_block_is_remembered():
    def kernel(address):
        pointer = language.as_pointer(address, np.float32)
        if language.block() == 0:
            pointer[0]
        else:
            pointer[1]
            for _ in range(3):
                language.barrier()
                pointer[0] if language.block() == 1 else None
            if language.block() == 2:
                pointer[0] = np.float32(1.0)

    machine = Machine(races=True)
    message = "block 2, thread 0.*race: writes what several blocks read"
    fails(kernel, (upload(machine, numbers(2)),), message, 3, 1, 0, machine)


def test_vectors_race_with_numbers_of_other_kinds():
    def kernel(address):
        if language.thread() == 0:
            mine = language.registers(2, np.float64)
            pointer = language.as_pointer(address, np.float64)
            language.load_vectors(mine, 0, pointer, 0, 0, 1)
        else:
            language.as_pointer(address + 12, np.float32)[0] = np.float32(1.0)

    for order in ("forward", "reversed"):
        machine = Machine(races=True, order=order)
        fails(kernel, (upload(machine, numbers(4)),), "race: .*byte 12", 1, 2, 0, machine)


def test_writes_of_the_same_value():
    def kernel(address, difference):
        value = np.float32(1.0 + difference * language.thread())
        language.as_pointer(address, np.float32)[0] = value

    machine = Machine(races=True)
    address = machine.memory.allocate(4)
    fails(kernel, (address, 0), "race: writes what block 0, thread 0 wrote", machine=machine)
    machine = Machine(machine.memory, races=True, same_value_writes=True)
    machine.launch(kernel, 1, 32, 0, (address, 0))
    fails(kernel, (address, 1), "race", machine=machine)
