"""The simulated GPU, on kernels with faults planted in them."""

import numpy as np
import pytest
from simulator import Machine, SimulationError
from simulator.samples import (
    ORDERS,
    fails,
    make_grid_sum,
    make_reduction,
    new_counter,
    numbers,
    upload,
)

from fastbp.backends.cuda import language


def test_a_missing_barrier_is_a_race():
    for options in ORDERS[:5]:
        machine = Machine(races=True, **options)
        source, target = upload(machine, numbers(64)), machine.memory.allocate(4)
        arguments = source, target, 64
        kernel = make_reduction(np.float32, with_barrier=False)
        fails(kernel, arguments, "race: .*shared memory", 1, 64, 256, machine)


def test_a_missing_barrier_gives_nan():
    results = []
    for options in ORDERS[:5]:
        machine = Machine(**options)
        source, target = upload(machine, numbers(64)), machine.memory.allocate(4)
        kernel = make_reduction(np.float32, with_barrier=False)
        machine.launch(kernel, 1, 64, 256, (source, target, 64))
        results.append(machine.memory.read(target, np.float32, 1)[0])
    assert np.isnan(results).any()


def test_shared_memory_is_fresh_in_every_block():
    def kernel(target):
        shared = language.shared_memory(np.float32)
        language.as_pointer(target, np.float32)[language.block()] = shared[0]
        shared[0] = np.float32(1.0)

    machine = Machine()
    target = machine.memory.allocate(8)
    machine.launch(kernel, 2, 1, 4, (target,))
    assert np.isnan(machine.memory.read(target, np.float32, 2)).all()
    fails(
        kernel, (target,), "never written", 2, 1, 4, Machine(machine.memory, uninitialised="raise")
    )


def test_registers_begin_as_nan_and_have_bounds():
    def kernel(target, index):
        mine = language.registers(4, np.float32)
        language.as_pointer(target, np.float32)[0] = mine[1]
        mine[index] = 2.5

    machine = Machine()
    target = machine.memory.allocate(4)
    machine.launch(kernel, 1, 1, 0, (target, 3))
    assert np.isnan(machine.memory.read(target, np.float32, 1)[0])
    for index in (-1, 4):
        fails(
            kernel, (target, index), f"element {index} is out of bounds: .* of 4", 1, 1, 0, machine
        )


def test_a_barrier_in_a_branch():
    def kernel():
        if language.thread() < 16:
            language.barrier()

    message = r"block 0: threads 0-15 wait at barrier in test_simulator_faults.py:\d+; threads 16-31 return"
    fails(kernel, (), message)


def test_an_early_return():
    def kernel():
        if language.thread() == 5:
            return
        language.barrier()

    fails(kernel, (), "divergent.*threads 0-4, 6-31 wait at barrier.*threads 5 returned")


def synchronize_here():
    language.barrier()


def test_barriers_at_different_places():
    def in_two_lines():
        if language.thread() < 16:
            language.barrier()
        else:
            language.barrier()

    def by_two_calls():
        if language.thread() < 16:
            synchronize_here()
        else:
            synchronize_here()

    fails(in_two_lines, (), "divergent barrier.*threads 0-15 .*threads 16-31")
    fails(by_two_calls, (), "divergent barrier.* called from .*threads 16-31")


def test_a_shuffle_that_a_thread_misses():
    def kernel():
        if language.thread() != 40:
            language.shuffle_xor(np.float32(1.0), 1)
        language.barrier()

    message = "threads 0-31, 40 wait at barrier.*threads 32-39, 41-63 wait at shuffle_xor"
    fails(kernel, (), message, block=64)
    fails(kernel, (), "warp of less than 32", block=33)


def test_a_shuffle_beyond_the_warp():
    fails(lambda: language.shuffle_xor(1, 32), (), "mask of 32")


@pytest.mark.parametrize("options", [{}, {"races": True}], ids=str)
@pytest.mark.parametrize(("index", "place"), [(8, 32), (-1, -4), (np.int64(1000), 4000)], ids=str)
def test_global_memory_has_bounds(options, index, place):
    def read(address):
        if language.thread() == 3:
            language.as_pointer(address, np.float32)[index]

    def write(address):
        if language.thread() == 3:
            language.as_pointer(address, np.float32)[index] = np.float32(1.0)

    machine = Machine(**options)
    address = upload(machine, numbers(8))
    for kernel, name in ((read, "read"), (write, "write")):
        message = (
            f"block 0, thread 3, test_simulator_faults.py:.*{name} of .* {index} is out of bounds: "
        )
        message += f"address {address + place:#x}, .* of 32 bytes of global"
        fails(kernel, (address,), message, machine=machine)


def test_shared_memory_has_bounds():
    def kernel(index, store):
        shared = language.shared_memory(np.float64)
        if store:
            shared[index] = 1.0
        return shared[index] if not store else None

    for index in (4, -1):
        for store in (0, 1):
            fails(kernel, (index, store), "out of bounds.*shared", shared=39)

    def copy():
        mine = language.registers(4, np.float32)
        language.load_vectors(mine, 0, language.shared_memory(np.float32), 4, 0, 1)

    fails(copy, (), "vector read of float32 element 4 is out of bounds", shared=24)
    Machine().launch(kernel, 1, 1, 39, (3, 1))


def test_marks_bound_pointers():
    def kernel(address, index):
        language.as_pointer(address, np.float32)[index] = 1.0

    machine = Machine()
    address = machine.memory.allocate(64)
    machine.memory.mark(address + 16, 16)
    machine.launch(kernel, 1, 1, 0, (address + 20, -1))
    machine.launch(kernel, 1, 1, 0, (address, 15))
    for index in (3, -2):
        fails(kernel, (address + 20, index), "marked part", machine=machine)
    expected = [4 <= i < 5 or i == 15 for i in range(16)]
    assert machine.memory.written(address, 64).tolist() == np.repeat(expected, 4).tolist()


def test_memory_that_is_not_there():
    def form(address):
        language.offset(language.as_pointer(address, np.float32), 4)

    def read(address):
        language.as_pointer(address, np.float32)[0]

    machine = Machine()
    freed = machine.memory.allocate(64)
    machine.memory.free(freed)
    for address in (0, freed, 4096):
        machine.launch(form, 1, 1, 0, (address,))
        fails(read, (address,), "read of element 0 from ", machine=machine)
    with pytest.raises(SimulationError, match="free"):
        machine.memory.free(freed)
    with pytest.raises(SimulationError, match="too many"):
        machine.memory.read(machine.memory.allocate(4), np.float32, 2)


@pytest.mark.parametrize("options", [{}, {"races": True}], ids=str)
def test_faults_of_vectors(options):
    machine = Machine(**options)
    address = upload(machine, numbers(64))

    def load(address, index):
        mine = language.registers(4, np.float32)
        language.load_vectors(mine, 0, language.as_pointer(address, np.float32), index, 0, 1)

    def store(address, index):
        mine = language.registers(2, np.float64)
        pointer = language.as_pointer(address, np.float64)
        language.store_vectors(pointer, index, 0, 0, mine, 0, 1, 1)

    machine.launch(load, 1, 1, 0, (address + 4, 3))
    machine.launch(store, 1, 1, 0, (address + 8, 1))
    fails(load, (address, 2), "misaligned vector read", machine=machine)
    fails(load, (address + 4, 0), "misaligned vector read", machine=machine)
    fails(store, (address, 1), "misaligned vector write", machine=machine)
    fails(store, (address + 4, 0), "misaligned pointer", machine=machine)
    fails(load, (address, 64), "out of bounds", machine=machine)
    fails(store, (address + 256, -1), "misaligned", machine=machine)

    def registers(index):
        mine = language.registers(8, np.float32)
        language.store_vectors(language.as_pointer(address, np.float32), 0, 0, 0, mine, index, 1, 1)

    machine.launch(registers, 1, 1, 0, (4,))
    fails(registers, (5,), "out of bounds: register 8 of 8", machine=machine)

    def kinds():
        pointer = language.as_pointer(address, np.float64)
        language.load_vectors(language.registers(4, np.float32), 0, pointer, 0, 0, 1)

    def not_registers():
        pointer = language.as_pointer(address, np.float32)
        language.load_vectors(pointer, 0, pointer, 0, 0, 1)

    fails(kinds, (), "different kinds", machine=machine)
    fails(not_registers, (), "registers expected", machine=machine)


def test_output_that_is_not_written():
    def kernel(address, count):
        me = language.thread()
        if me < count - 1:  # the last element is forgotten
            language.as_pointer(address, np.float32)[me] = np.float32(me)

    machine = Machine()
    address = machine.memory.allocate(40)
    machine.launch(kernel, 1, 32, 0, (address, 10))
    assert machine.memory.written(address, 36).all()
    assert not machine.memory.written(address + 36, 4).any()
    assert np.isnan(machine.memory.read(address, np.float32, 10)[9])
    machine.memory.poison(address, 40)
    assert not machine.memory.written(address, 40).any()


def test_reads_of_what_was_never_written():
    def kernel(address):
        language.as_pointer(address, np.float32)[1]

    machine = Machine(uninitialised="raise")
    address = machine.memory.allocate(8)
    machine.memory.fill(address, 4)
    fails(kernel, (address,), "read of what was never written: .*byte 4", machine=machine)


def test_grid_barriers_need_a_cooperative_launch():
    fails(make_grid_sum(np.float32), (256, 256, 256, 256), "from 0x100", grid=2)
    fails(language.grid_barrier, (256,), "not cooperative", grid=2)


def test_a_counter_of_meetings_is_global_zero_and_the_only_one():
    def kernel(counters):
        language.shared_memory(np.int64)[0] = 0
        language.barrier()
        if counters == 0:
            language.grid_barrier(language.shared_memory(np.int64))
        counter = language.as_pointer(counters, np.int64)
        language.grid_barrier(counter)
        language.grid_barrier(language.offset(counter, language.block()))

    machine = Machine()
    counters = upload(machine, np.zeros(2, np.int64))
    settings = {"grid": 2, "shared": 8, "machine": machine, "cooperative": True}
    fails(kernel, (0,), "grid_barrier counts in shared memory", **settings)
    fails(kernel, (counters,), "grid_barrier with a counter of its own", **settings)
    machine.memory.write(counters, np.ones(1, np.int64))
    fails(kernel, (counters,), "where there is 1", **settings)


def test_a_block_that_misses_a_grid_barrier():
    def kernel(counter):
        if language.block() != 1:
            language.grid_barrier(language.as_pointer(counter, np.int64))

    message = "divergent grid barrier.*blocks 0, 2 wait at grid_barrier.*blocks 1 returned"
    machine = Machine()
    counter = new_counter(machine)
    fails(kernel, (counter,), message, grid=3, machine=machine, cooperative=True)


def test_a_thread_that_misses_a_grid_barrier():
    def kernel(counter):
        if language.thread() or language.block():
            language.grid_barrier(language.as_pointer(counter, np.int64))
        else:
            language.barrier()

    message = "in block 0: threads 0 wait at barrier.*1-31 wait at grid_barrier"
    machine = Machine()
    counter = new_counter(machine)
    fails(kernel, (counter,), message, grid=2, machine=machine, cooperative=True)


def test_launches_that_are_too_large():
    machine = Machine(shared_limit=1000)
    fails(language.barrier, (), "1001 bytes of shared memory", shared=1001, machine=machine)
    fails(language.barrier, (), "1025 threads", block=1025)
    machine.launch(language.barrier, 1, 1024, 1000, ())


def test_exceptions_of_a_kernel_name_the_thread():
    def kernel():
        if language.block() == 1 and language.thread() == 7:
            ().index(3)

    error = fails(
        kernel, (), r"block 1, thread 7, test_simulator_faults.py:\d+: ValueError", grid=2
    )
    assert isinstance(error.__cause__, ValueError)
