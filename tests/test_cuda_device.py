"""The CUDA device, over a stand-in for the driver's bindings."""

import gc
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from driver_names import CUresult, Handle, Launch
from fake_driver import OWN_SHARED_BYTES, driver_in_place  # noqa: F401  (the fixture `driver`)

import fastbp as fb
from fastbp.backends import choose
from fastbp.backends.cuda import device, processor
from fastbp.backends.cuda.device import Device

LAUNCH_FAILED = CUresult.CUDA_ERROR_LAUNCH_FAILED
ADDRESS = 0x7F0012345678


@dataclass(frozen=True)
class Code:
    """A kernel with so many parameters."""

    symbol: str
    parameters: int

    def code(self, compute_capability):
        assert compute_capability == (9, 0)
        return str(self.parameters).encode()


@pytest.fixture
def gpu(driver):
    """The first device."""
    return Device(0)


# Memory.


def test_what_a_device_says_of_itself(gpu):
    assert (gpu.ordinal, gpu.name, gpu.compute_capability) == (0, "Fake GPU 0", (9, 0))
    assert (gpu.multiprocessors, gpu.shared_bytes, gpu.free_bytes()) == (132, 232448, 1 << 20)
    assert repr(gpu) == "<cuda:0, Fake GPU 0>"


def test_copies(gpu, driver):
    values = np.arange(12.0).reshape(3, 4)
    values.flags.writeable = False
    first, second = gpu.allocate(values.nbytes), gpu.allocate(values.nbytes)
    gpu.upload(first, values)
    gpu.copy(second, first, values.nbytes)
    gpu.fill_zero(second, 32)
    found = np.empty((3, 4))
    gpu.download(found, second)
    assert np.array_equal(found[1:], values[1:])
    assert not found[0].any()
    gpu.free(first)
    gpu.free(second)
    assert not driver.memory


def test_nothing_is_copied_where_there_is_nothing(gpu, driver):
    address = gpu.allocate(0)
    before = len(driver.calls)
    gpu.upload(address, np.empty((0, 3)))
    gpu.download(np.empty((0, 3)), address)
    gpu.fill_zero(address, 0)
    gpu.copy(address, address, 0)
    assert len(driver.calls) == before
    gpu.free(address)
    gpu.free(0)


def test_arrays_must_be_one_run_of_memory(gpu):
    with pytest.raises(ValueError, match="contiguous"):
        gpu.upload(1, np.zeros((4, 4)).T[1:])
    with pytest.raises(ValueError, match="contiguous"):
        gpu.download([1.0], 1)
    fixed = np.zeros(3)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="written"):
        gpu.download(fixed, 1)


def test_too_little_memory_names_both_numbers(gpu, driver):
    text = (
        r"cuda:0 \(Fake GPU 0\) has too little memory: {} bytes are wanted and 1,048,576 are free"
    )
    with pytest.raises(fb.DeviceError, match=text.format("2,000,000")):
        gpu.allocate(2_000_000)
    assert "cuMemAlloc" not in driver.calls
    driver.fails["cuMemAlloc"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(fb.DeviceError, match=text.format("1,000")):
        gpu.allocate(1000)
    driver.fails.clear()
    gpu.free(gpu.allocate(1000))


# Kernels.


def test_a_kernel_is_loaded_once(gpu, driver):
    handle = gpu.function(Code("forward", 2))
    assert gpu.function(Code("forward", 2)) is handle
    assert gpu.function(Code("backward", 2)) is not handle
    assert driver.calls.count("cuModuleLoadData") == 2


def test_arguments_arrive_in_order(gpu, driver):
    handle = gpu.function(Code("forward", 4))
    arguments = ADDRESS, -1, 2**63 - 1, 0
    gpu.launch(handle, 3, 128, 1000, arguments)
    gpu.launch(handle, 132, 256, 0, arguments[::-1], cooperative=True)
    gpu.launch(handle, 132, 256, 0, arguments, cooperative=True)
    assert driver.launches == [
        Launch("forward", 3, 128, 1000, arguments, False),
        Launch("forward", 132, 256, 0, arguments[::-1], True),
        Launch("forward", 132, 256, 0, arguments, True),
    ]


def test_much_shared_memory_is_asked_for_once(gpu, driver):
    handle = gpu.function(Code("forward", 0))
    gpu.launch(handle, 1, 32, 48 * 1024 - OWN_SHARED_BYTES, ())
    assert "cuFuncSetAttribute" not in driver.calls
    for shared_bytes in (48 * 1024, 100_000, 50_000, 200_000):
        gpu.launch(handle, 1, 32, shared_bytes, ())
    assert driver.calls.count("cuFuncSetAttribute") == 2  # how much, and at the cost of the cache
    assert list(handle.function.about["shared"].values()) == [232448 - OWN_SHARED_BYTES, 100]
    with pytest.raises(
        fb.DeviceError,
        match=r"forward needs 232,448 bytes of shared memory, and Fake GPU 0 has 232,000",
    ):
        gpu.launch(handle, 1, 32, 232448, ())


def test_how_many_blocks_run_at_a_time(gpu, driver):
    handle = gpu.function(Code("forward", 0))
    assert gpu.most_blocks(handle, 256, 100_000) == 8 * 132
    assert handle.has_opted_in


def test_a_graph_repeats_what_was_captured(gpu, driver):
    handle = gpu.function(Code("forward", 1))

    def work():
        gpu.launch(handle, 1, 32, 0, (1,))
        gpu.launch(handle, 2, 64, 0, (2,), cooperative=True)

    graph = gpu.capture(work)
    assert driver.launches == []
    gpu.launch(handle, 9, 32, 0, (9,))
    graph.launch()
    graph.launch()
    assert [launch.grid for launch in driver.launches] == [9, 1, 2, 1, 2]
    assert [launch.arguments for launch in driver.launches[1:3]] == [(1,), (2,)]
    assert [handle.kind for handle in driver.alive] == ["executable"]
    del graph
    gc.collect()
    assert driver.alive == []


@pytest.mark.parametrize("fault", [ValueError("mine"), KeyboardInterrupt()])
def test_a_capture_that_fails_ends(gpu, driver, fault):
    def work():
        raise fault

    with pytest.raises(type(fault)):
        gpu.capture(work)
    assert driver.recording is None
    assert driver.alive == []
    with pytest.raises(fb.DeviceError, match="STREAM_CAPTURE_UNSUPPORTED"):
        gpu.capture(gpu.synchronize)
    gpu.synchronize()


def test_no_other_thread_gets_into_a_capture(gpu, driver):
    handle = gpu.function(Code("forward", 1))
    other = threading.Thread(target=gpu.launch, args=(handle, 7, 32, 0, (7,)))

    def work():
        other.start()
        other.join(0.05)
        gpu.launch(handle, 1, 32, 0, (1,))

    graph = gpu.capture(work)
    other.join()
    assert [launch.grid for launch in driver.launches] == [7]
    graph.launch()
    assert [launch.grid for launch in driver.launches] == [7, 1]


def test_what_another_thread_drops_meanwhile_goes_at_the_next_turn(gpu, driver):
    """A garbage collector must not wait for the device: its thread may hold what that waits for."""
    address = gpu.allocate(100)
    events = [gpu.event()]

    def drop():
        events.clear()
        gpu.free(address)

    other = threading.Thread(target=drop)
    with gpu.turn:
        other.start()
        other.join(10)
        assert not other.is_alive()
        assert driver.memory
    gpu.free_bytes()
    assert not driver.memory
    assert driver.alive == []


def test_memory_that_is_dropped_during_a_capture_goes_after_it(gpu, driver):
    address = gpu.allocate(100)

    def work():
        gpu.free(address)  # as a garbage collection may do
        assert driver.memory

    gpu.capture(work)
    gpu.free_bytes()
    assert not driver.memory


def test_time_between_events(gpu, driver):
    first = gpu.event()
    gpu.launch(gpu.function(Code("forward", 0)), 1, 32, 0, ())
    assert gpu.milliseconds(first, gpu.event()) == 1.0
    del first
    gc.collect()
    assert driver.alive == []


# Contexts, processes, failures.


def test_any_thread_may_call(gpu, driver):
    found = []
    other = threading.Thread(target=lambda: found.append(gpu.free_bytes()))
    other.start()
    other.join()
    assert found == [1 << 20]


def test_another_device_stays_current(gpu, driver):
    theirs = Handle("context", 0x999)
    driver.stack[:] = [theirs]
    gpu.free_bytes()
    assert driver.stack == [theirs]
    second = Device(1)
    driver.stack.clear()
    with second.turn:
        gpu.free_bytes()
        second.free_bytes()
    assert driver.stack == []
    gpu.free_bytes()
    gpu.free_bytes()
    assert [int(handle) for handle in driver.stack] == [gpu.address]


def test_one_object_for_a_device(driver):
    assert device.device(1) is device.device(1)
    assert device.device(1) is not device.device(0)


def test_errors_name_the_call(gpu, driver):
    driver.fails["cuLaunchKernel"] = CUresult.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
    handle = gpu.function(Code("forward", 0))
    text = r"cuda:0: cuLaunchKernel: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES \(launch out of resources\)"
    with pytest.raises(fb.DeviceError, match=text):
        gpu.launch(handle, 1, 4096, 0, ())
    driver.fails.clear()
    gpu.launch(handle, 1, 32, 0, ())
    with pytest.raises(fb.DeviceError, match="cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE"):
        gpu.function(Code("forward", -1))
    gpu.synchronize()


def test_every_call_fails_after_a_kernel_has(driver):
    gpu = device.device(0)
    address, handle = gpu.allocate(8), gpu.function(Code("forward", 0))
    graph = gpu.capture(lambda: None)
    driver.fails["cuStreamSynchronize"] = LAUNCH_FAILED
    with pytest.raises(
        fb.DeviceError,
        match=r"cuda:0: cuStreamSynchronize: CUDA_ERROR_LAUNCH_FAILED \(launch failed\)",
    ):
        gpu.synchronize()
    driver.fails.clear()
    calls = [
        lambda: gpu.allocate(8),
        lambda: gpu.upload(address, np.zeros(1)),
        lambda: gpu.launch(handle, 1, 32, 0, ()),
        lambda: gpu.function(Code("forward", 0)),
        graph.launch,
        gpu.synchronize,
        lambda: device.device(0),
    ]
    for call in calls:
        with pytest.raises(
            fb.DeviceError, match=r"an earlier kernel failed .* restart the process"
        ):
            call()
    before = len(driver.calls)
    gpu.free(address)  # nothing is left to be freed, and cleaning up must not hide the error
    del graph, calls
    gc.collect()
    assert len(driver.calls) == before
    device.device(1).synchronize()


@pytest.mark.parametrize(
    "name", ["cuMemGetInfo", "cuMemAlloc", "cuPointerGetAttribute", "cuCtxGetCurrent"]
)
def test_a_failure_is_noticed_wherever_it_shows(gpu, driver, name):
    driver.fails[name] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(fb.DeviceError, match=f"{name}: CUDA_ERROR_ILLEGAL_ADDRESS"):
        gpu.ordinal_of(gpu.allocate(8))
    assert gpu.unusable
    assert gpu.turn.lock.acquire(blocking=False)


def test_a_failed_device_is_not_offered_again(driver):
    gpu = device.device(0)
    assert choose.why_not_cuda(0) == ""
    driver.fails["cuStreamSynchronize"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(fb.DeviceError):
        gpu.synchronize()
    assert "cuda:0 cannot be used any more" in choose.why_not_cuda(0)
    assert choose.why_not_cuda(1) == choose.why_not_cuda() == ""
    assert [found.available for found in fb.devices()] == [True, False, True]
    assert choose.resolve_device("auto", choose.AUTO_MULTIPLY_ADDS) == "cpu"
    with pytest.raises(fb.DeviceError, match="device: cuda is not available: cuda:0 cannot"):
        choose.resolve_device("cuda")
    assert choose.resolve_device("cuda:01") == "cuda:1"


def test_a_forked_child_is_refused(driver, monkeypatch):
    gpu = device.device(0)
    address, event = gpu.allocate(8), gpu.event()
    monkeypatch.setattr(processor.os, "getpid", lambda: -1)
    for call in (gpu.synchronize, lambda: device.device(0), lambda: Device(1)):
        with pytest.raises(fb.DeviceError, match="forked"):
            call()
    assert processor.why_not() == processor.FORKED
    before = len(driver.calls)
    gpu.free(address)
    del event
    gc.collect()
    assert len(driver.calls) == before
