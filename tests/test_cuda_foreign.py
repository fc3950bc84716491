"""Arrays of other packages on a device, over a stand-in for the driver's bindings."""

import numpy as np
import pytest
from fake_driver import driver_in_place  # noqa: F401  (the fixture `driver`)

import fastbp as fb
from fastbp.backends.cuda.device import Device
from fastbp.backends.cuda.foreign import as_device_array


@pytest.fixture
def gpu(driver):
    """The first device."""
    return Device(0)


class Foreign:
    """An array as another package shows it."""

    def __init__(self, **interface):
        self.__cuda_array_interface__ = {
            "shape": (2, 3),
            "typestr": "<f4",
            "version": 3,
        } | interface


def test_an_array_is_read_where_it_lies(gpu, driver):
    address = gpu.allocate(24)
    array = Foreign(data=(address, True), strides=(12, 4))
    found = as_device_array(array, gpu)
    assert found == (address, (2, 3), np.dtype("float32"), None, array, True)
    assert driver.waited == []
    turned = as_device_array(Foreign(data=(address, False), strides=(4, 8)), gpu)
    assert turned.strides == (4, 8)
    assert not turned.read_only
    column = Foreign(data=(address, False), shape=(3, 1), strides=(4, 4), typestr="<f4")
    assert as_device_array(column, gpu).strides is None
    assert as_device_array(np.zeros(3), gpu) is None
    assert as_device_array([1.0], gpu) is None


@pytest.mark.parametrize(
    ("interface", "waited"),
    [
        ({"stream": None}, []),
        ({"stream": 1}, [1]),
        ({"stream": 2}, [2]),
        ({"stream": 0xABC}, [0xABC]),
        ({"version": 2}, ["all"]),
    ],
)
def test_the_producer_is_waited_for(gpu, driver, interface, waited):
    as_device_array(Foreign(data=(gpu.allocate(24), False), **interface), gpu)
    assert driver.waited == waited


def test_arrays_that_are_refused(gpu):
    address = gpu.allocate(24)
    with pytest.raises(ValueError, match="stream 0"):
        as_device_array(Foreign(data=(address, False), stream=0), gpu)
    with pytest.raises(ValueError, match="mask"):
        as_device_array(Foreign(data=(address, False), mask=object()), gpu)
    with pytest.raises(fb.DeviceError, match="expected an array on cuda:0; it is in cuda:1"):
        as_device_array(Foreign(data=(0xD1, False)), gpu)
    with pytest.raises(fb.DeviceError, match="it is in memory that is no GPU's"):
        as_device_array(Foreign(data=(0xE1, False)), gpu)


@pytest.mark.parametrize("pointer", [0, None])
def test_an_array_without_elements_has_no_address(gpu, driver, pointer):
    array = Foreign(data=(pointer, False), shape=(0, 3), strides=(12, 4), stream=1)
    assert as_device_array(array, gpu)[:4] == (0, (0, 3), np.dtype("float32"), None)
    assert driver.waited == []
