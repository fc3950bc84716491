"""Arrays of another package on a device, and what is copied to it."""

import numpy as np


class ForeignArray:
    """Another package's array on the device; `misplaced` bytes beyond where numbers may lie."""

    def __init__(self, device, array, misplaced=0):
        self.device, self.array = device, array
        self.address = device.allocate(array.nbytes + misplaced) + misplaced
        device.upload(self.address, np.ascontiguousarray(array))

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }


def count_uploads(device, monkeypatch):
    """The list to which the shape of every array is added that is copied to the device."""
    shapes, upload = [], device.upload

    def counted(address, array):
        shapes.append(array.shape)
        upload(address, array)

    monkeypatch.setattr(device, "upload", counted)
    return shapes
