"""The simulated GPU, on kernels that are right, and as a device."""

from dataclasses import dataclass

import numpy as np
import pytest
from simulator import Machine, SimulatedDevice, SimulationError
from simulator.samples import (
    every_order,
    make_grid_sum,
    make_reduction,
    new_counter,
    numbers,
    upload,
)

from fastbp.backends.cuda import language
from fastbp.errors import DeviceError


def make_product(real, tile=8):
    """A square tile of C = A B a block, one element a thread."""

    def product(a, b, c, size):
        row, column = divmod(language.thread(), tile)
        tiles = size // tile
        top, left = divmod(language.block(), tiles)
        pa = language.as_pointer(a, real)
        pb = language.as_pointer(b, real)
        pc = language.as_pointer(c, real)
        shared_a = language.shared_memory(real)
        shared_b = language.offset(shared_a, tile * tile)
        total = language.registers(1, real)
        total[0] = real(0.0)
        for t in range(tiles):
            shared_a[row * tile + column] = pa[(top * tile + row) * size + t * tile + column]
            shared_b[row * tile + column] = pb[(t * tile + row) * size + left * tile + column]
            language.barrier()
            for k in range(tile):
                total[0] = language.fma(
                    shared_a[row * tile + k], shared_b[k * tile + column], total[0]
                )
            language.barrier()
        pc[(top * tile + row) * size + left * tile + column] = total[0]

    return product


def make_warp_sum(real):
    def warp_sum(source, target):
        place = language.block() * language.threads() + language.thread()
        total = language.as_pointer(source, real)[place]
        mask = 16
        while mask > 0:
            total += language.shuffle_xor(total, mask)
            mask //= 2
        language.as_pointer(target, real)[place] = total

    return warp_sum


@every_order
@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_a_reduction(options, real):
    machine = Machine(**options)
    values = numbers(500, dtype=real)
    source, target = upload(machine, values), machine.memory.allocate(3 * real().itemsize)
    machine.launch(make_reduction(real), 3, 64, 64 * real().itemsize, (source, target, 500))
    sums = machine.memory.read(target, real, 3)
    assert sums.sum() == pytest.approx(values.sum(dtype=np.float64), rel=1e-5)
    assert machine.memory.written(target, sums.nbytes).all()


@every_order
@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_a_tiled_product(options, real):
    machine = Machine(**options)
    a, b = numbers(16, 16, dtype=real), numbers(16, 16, dtype=real, seed=1)
    addresses = upload(machine, a), upload(machine, b), machine.memory.allocate(a.nbytes)
    machine.launch(make_product(real), 4, 64, 128 * a.itemsize, (*addresses, 16))
    c = machine.memory.read(addresses[2], real, 256).reshape(16, 16)
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-5)


@every_order
def test_a_sum_by_shuffles(options):
    machine = Machine(**options)
    values = numbers(128)
    source, target = upload(machine, values), machine.memory.allocate(values.nbytes)
    machine.launch(make_warp_sum(np.float32), 2, 64, 0, (source, target))
    sums = machine.memory.read(target, np.float32, 128).reshape(4, 32)
    np.testing.assert_allclose(sums[:, 0], values.reshape(4, 32).sum(1), rtol=1e-5)
    assert (sums == sums[:, :1]).all()


@every_order
def test_a_sum_between_blocks(options):
    machine = Machine(**options)
    values = numbers(5)
    source = upload(machine, values)
    partial, target = machine.memory.allocate(20), machine.memory.allocate(20)
    kernel = make_grid_sum(np.float32)
    arguments = source, partial, target, new_counter(machine)
    machine.launch(kernel, 5, 32, 0, arguments, cooperative=True)
    np.testing.assert_allclose(machine.memory.read(target, np.float32, 5), values.sum(), rtol=1e-5)


@every_order
def test_vectors_and_kinds(options):
    def vectors(source, target):
        mine = language.registers(6, np.float32)
        wide = language.registers(2, np.float64)
        pointer = language.offset(language.as_pointer(source, np.float32), 4)
        language.load_vectors(mine, 1, pointer, -4, 0, 1)
        mine[1], mine[4] = mine[4], mine[1]
        pointer = language.as_pointer(target, np.float32)
        language.store_vectors(pointer, 4, 0, 0, mine, 1, 1, 1)
        language.load_vectors(wide, 0, language.as_pointer(target + 16, np.float64), 0, 0, 1)
        shared = language.shared_memory(np.float64)
        language.store_vectors(shared, 2, 0, 0, wide, 0, 1, 1)
        pointer[0] = language.as_pointer(shared.address + 20, np.float32)[0]
        pointer[1] = np.float64(1 / 3)
        language.as_pointer(target, np.int64)[1] = -5

    machine = Machine(**options)
    source, target = upload(machine, numbers(4)), machine.memory.allocate(32)
    machine.launch(vectors, 1, 1, 64, (source, target))
    expected = numbers(4)[[3, 1, 2, 0]]
    stored = machine.memory.read(target, np.float32, 8)
    np.testing.assert_array_equal(stored[4:], expected)
    np.testing.assert_array_equal(stored[:2], np.float32([expected[1], 1 / 3]))
    assert machine.memory.read(target + 8, np.int64, 1) == -5


@every_order
def test_rows_of_vectors(options):
    def rows(source, target):
        mine = language.registers(26, np.float32)
        for i in range(3):
            pointer = language.as_pointer(source, np.float32)
            language.load_vectors(mine, 2 + i * 8, pointer, 40 - 20 * i, 8, 2)
        pointer = language.as_pointer(target, np.float32)
        language.store_vectors(pointer, 16, 4, -8, mine, 2, 3, 2)
        language.fill(pointer, 24, 7.0, 4)

    machine = Machine(**options)
    values = numbers(60)
    source, target = upload(machine, values), machine.memory.allocate(112)
    machine.launch(rows, 1, 1, 0, (source, target))
    parts = [values[20 * i + 8 * j :][:4] for i in range(3) for j in range(2)]
    stored = machine.memory.read(target, np.float32, 28)
    np.testing.assert_array_equal(stored, np.concatenate([*parts, np.full(4, 7.0)]))
    assert machine.memory.written(target, 112).all()


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_an_outer_product(real):
    """The same as one by one."""

    def kernel(target, whole):
        sums = language.registers(6, real)
        left = language.registers(8, real)
        right = language.registers(2, real)
        pointer = language.as_pointer(target, real)
        language.fill(sums, 0, real(0.1), 6)
        for i in range(8):
            left[i] = real(1.1) ** i
        for j in range(2):
            right[j] = real(0.3) + j
        if whole:
            language.outer_product(sums, left, 1, 2, right, 3, 2)
        for i in range(3):
            for j in range(2):
                if not whole:
                    sums[i * 2 + j] = language.fma(left[1 + i * 2], right[j], sums[i * 2 + j])
                pointer[i * 2 + j] = sums[i * 2 + j]

    machine = Machine()
    results = []
    for whole in (0, 1):
        target = machine.memory.allocate(6 * real().itemsize)
        machine.launch(kernel, 1, 1, 0, (target, whole))
        results.append(machine.memory.read(target, real, 6))
    np.testing.assert_array_equal(*results)


def test_the_machine_knows_all_words():
    assert all(callable(getattr(Machine(), word)) for word in language.__all__)


def test_arithmetic_is_in_the_kind():
    def arithmetic(target):
        pointer = language.as_pointer(target, np.float32)
        third = np.float32(1.0) / np.float32(3.0)
        pointer[0] = third * np.float32(3e38) * np.float32(1e38)  # overflows without a warning
        pointer[1] = language.fma(third, third, np.float32(-1 / 9))
        wide = language.as_pointer(target, np.float64)
        wide[1] = language.fma(np.float64(1.1), np.float64(1.1), np.float64(-(1.1 * 1.1)))

    machine = Machine()
    target = machine.memory.allocate(16)
    machine.launch(arithmetic, 1, 1, 0, (target,))
    third = np.float64(np.float32(1 / 3))
    overflow, difference = machine.memory.read(target, np.float32, 2)
    assert np.isinf(overflow)
    assert difference == np.float32(third * third - np.float64(np.float32(1 / 9)))
    assert 0 < abs(machine.memory.read(target + 8, np.float64, 1)[0]) < 1e-16


@dataclass(frozen=True)
class Scaling:
    """A kernel that multiplies by a constant."""

    factor: float
    dtype: str = "float32"

    def build(self, real, integer, wide):
        factor = real(self.factor)

        def scale(address, count):
            place = language.block() * language.threads() + language.thread()
            if place < count:
                language.as_pointer(address, real)[place] *= factor

        return scale


def test_a_device():
    device = SimulatedDevice(total_bytes=1000)
    address = device.allocate(400)
    assert device.free_bytes() == 600
    with pytest.raises(DeviceError, match=r"600 bytes free .* 601 bytes wanted"):
        device.allocate(601)
    values = numbers(10, 10)
    device.upload(address, values)
    double = device.function(Scaling(2.0))
    assert device.function(Scaling(2.0)) is double
    device.launch(double, 2, 64, 0, (address, 99))
    device.synchronize()
    result = np.empty_like(values)
    device.download(result, address)
    values.reshape(-1)[:99] *= 2
    np.testing.assert_array_equal(result, values)
    device.copy(address + 4, address, 396)
    device.fill_zero(address, 4)
    device.download(result, address)
    np.testing.assert_array_equal(result.reshape(-1), [0, *values.reshape(-1)[:99]])
    device.free(address)
    assert device.free_bytes() == 1000


def test_a_recorded_graph():
    device = SimulatedDevice()
    address = device.allocate(16)
    values = np.ones(4, np.float32)
    device.upload(address, values)
    double, triple = device.function(Scaling(2.0)), device.function(Scaling(3.0))

    def step():
        device.launch(double, 1, 32, 0, (address, 4))
        device.launch(triple, 1, 32, 0, (address, 3))

    graph = device.capture(step)
    device.download(values, address)
    assert values.tolist() == [1, 1, 1, 1]
    graph.launch()
    graph.launch()
    device.download(values, address)
    assert values.tolist() == [36, 36, 36, 4]
    with pytest.raises(DeviceError, match="while a graph is recorded"):
        device.capture(lambda: device.download(values, address))
    device.synchronize()


def test_a_device_refuses_what_does_not_fit():
    device = SimulatedDevice(multiprocessors=3, shared_bytes=100_000)
    handle = device.function(Scaling(2.0))
    assert device.most_blocks(handle, 256, 1000) == 6
    assert device.most_blocks(handle, 2048, 100_000) == 3
    device.launch(handle, 6, 32, 0, (0, 0), cooperative=True)
    for error, wrong in (
        (DeviceError, lambda: device.launch(handle, 7, 32, 0, (0, 0), cooperative=True)),
        (DeviceError, lambda: device.launch(handle, 1, 32, 100_001, (0, 0))),
        (DeviceError, lambda: device.most_blocks(handle, 32, 100_001)),
        (SimulationError, lambda: device.launch(handle, 1, 32, 0, (0.0, 0))),
        (ValueError, lambda: device.upload(device.allocate(64), numbers(4, 4).T)),
    ):
        with pytest.raises(error):
            wrong()
