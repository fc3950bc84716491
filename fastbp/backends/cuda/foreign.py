"""Arrays that other packages have on a device, by the CUDA array interface."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbp.errors import DeviceError

__all__ = ["DeviceArray", "as_device_array", "copy_to_host", "same_array"]

FIRST_WITH_STREAM = 3  # version of the interface


class DeviceArray(NamedTuple):
    """Another package's array on a device.

    Attributes
    ----------
    address : int
    shape : tuple of int
    dtype : numpy.dtype
    strides : tuple of int, or None
        In bytes; None where the elements lie one after the other, the last axis fastest.
    owner : object
        What must be kept while the address is used.
    read_only : bool
        Whether the owner forbids writing.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...] | None
    owner: Any
    read_only: bool


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """Whether these are the strides of elements in the order of C, one after the other."""
    expected = itemsize
    for count, stride in zip(reversed(shape), reversed(strides), strict=True):
        if count > 1 and stride != expected:
            return False
        expected *= count
    return True


def as_device_array(value: Any, device: Any) -> DeviceArray | None:
    """An array that lies on a device; its contents are complete when this returns.

    Parameters
    ----------
    value : object
        Of CuPy, PyTorch, JAX, Numba or any other package with ``__cuda_array_interface__``.
    device : Device
        Where it must lie.

    Returns
    -------
    DeviceArray or None
        None for anything that is no array on a GPU.

    Raises
    ------
    DeviceError
        For an array on another device.
    ValueError
        For one that does not follow the interface, or has a mask.
    """
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        return None
    if interface.get("mask") is not None:
        raise ValueError("expected an array without a mask")
    shape = tuple(int(count) for count in interface["shape"])
    dtype = np.dtype(interface["typestr"])
    pointer, read_only = interface["data"]
    address = int(pointer or 0)
    strides = interface.get("strides")
    if strides is not None:
        strides = tuple(int(stride) for stride in strides)
    if math.prod(shape) == 0:
        return DeviceArray(address, shape, dtype, None, value, bool(read_only))
    found = device.ordinal_of(address)
    if found != device.ordinal:
        where = "memory that is no GPU's" if found is None else f"cuda:{found}"
        raise DeviceError(f"expected an array on cuda:{device.ordinal}; it is in {where}")
    wait_for_producer(interface, device)
    if strides is not None and is_contiguous(shape, strides, dtype.itemsize):
        strides = None
    return DeviceArray(address, shape, dtype, strides, value, bool(read_only))


def wait_for_producer(interface: dict[str, Any], device: Any) -> None:
    """Wait until an array's contents are complete."""
    if interface.get("version", 0) < FIRST_WITH_STREAM:
        # The package cannot say on which stream it works, and the device's own stream waits for
        # no other.
        device.wait_for_all()
        return
    stream = interface.get("stream")
    if stream is None:
        return  # the package says that there is nothing to wait for
    if stream == 0:
        raise ValueError("the CUDA array interface allows no stream 0, which could mean two things")
    device.wait_for(int(stream))  # 1 and 2 mean to the driver what they mean here


def same_array(value: Any, array: NDArray[Any], device: Any) -> DeviceArray | None:
    """The value, if it lies on a device and holds the numbers of an array as the array has them."""
    if getattr(value, "__cuda_array_interface__", None) is None:
        return None
    if device.ordinal_of(int(value.__cuda_array_interface__["data"][0] or 0)) != device.ordinal:
        return None
    found = as_device_array(value, device)
    if found is None or found.strides is not None or found.dtype != array.dtype:
        return None
    if found.address % array.itemsize:  # a GPU cannot read numbers that lie so
        return None
    return found if math.prod(found.shape) == array.size else None


def copy_to_host(value: Any, open_device: Callable[[int], Any]) -> NDArray[Any]:
    """A copy in host memory of an array that lies on some device.

    Parameters
    ----------
    value : object
        With ``__cuda_array_interface__``.
    open_device : callable
        From the number of a device to the device.

    Raises
    ------
    DeviceError, ValueError
        As `as_device_array`.
    """
    first = open_device(0)
    address = int(value.__cuda_array_interface__["data"][0] or 0)
    ordinal = first.ordinal_of(address) if address else 0
    device = first if not ordinal else open_device(ordinal)
    found = as_device_array(value, device)
    assert found is not None
    if math.prod(found.shape) == 0:
        return np.empty(found.shape, found.dtype)
    if found.strides is None:
        array = np.empty(found.shape, found.dtype)
        device.download(array, found.address)
        return array
    reach = [(n - 1) * stride for n, stride in zip(found.shape, found.strides, strict=True)]
    low = sum(min(each, 0) for each in reach)
    high = sum(max(each, 0) for each in reach) + found.dtype.itemsize
    span = np.empty(high - low, np.uint8)
    device.download(span, found.address + low)
    return np.ndarray(found.shape, found.dtype, span.data, -low, found.strides)
