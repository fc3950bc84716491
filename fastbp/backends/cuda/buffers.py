"""The slabs of a plan in device memory: one allocation, sized before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.errors import DeviceError
from fastbp.plan import Plan, Slab

__all__ = ["Buffers"]

ALIGNMENT = 256  # bytes; where every slab begins


class Buffers:
    """Device memory for every slab of a plan, and a host copy of those that the host fills.

    Parameters
    ----------
    plan : Plan
    device : Device
    extra : mapping of str to int
        Bytes of memory besides the slabs, by name.
    shared : mapping of str to Buffers
        Slabs, by name, that lie in another plan's buffers (the parameters, for validation).

    Raises
    ------
    DeviceError
        If it is more than the device has free; nothing has been allocated then.
    """

    def __init__(
        self,
        plan: Plan,
        device: Any,
        extra: Mapping[str, int],
        shared: Mapping[str, Buffers] | None = None,
    ) -> None:
        self.plan, self.device = plan, device
        self.tensors = {tensor.name: tensor for tensor in plan.tensors}
        self.kinds = {slab.name: self.dtype_of(slab) for slab in plan.slabs}
        self.lengths = {slab.name: slab.elements for slab in plan.slabs}
        self.addresses: dict[str, int] = {}
        places: dict[str, int] = {}
        self.nbytes = 0
        for slab in plan.slabs:
            if shared and slab.name in shared:
                self.addresses[slab.name] = shared[slab.name].addresses[slab.name]
            else:
                places[slab.name] = self.take(slab.elements * self.kinds[slab.name].itemsize)
        for name, nbytes in extra.items():
            places[name] = self.take(nbytes)
        free = device.free_bytes()
        if self.nbytes > free:
            raise DeviceError(
                f"{device.name}: the {plan.purpose} plan needs {self.nbytes:,} bytes of memory; "
                f"{free:,} are free"
            )
        self.base = device.allocate(self.nbytes)
        device.fill_zero(self.base, self.nbytes)
        self.addresses |= {name: self.base + place for name, place in places.items()}
        with np.errstate(over="ignore"):  # a setting beyond float32 acts as infinity
            for name, values in plan.values.items():
                tensor = self.tensors[name]
                self.upload(name, np.array(values[: tensor.columns], self.kinds[tensor.slab]))

    def dtype_of(self, slab: Slab) -> np.dtype[Any]:
        """The kind of numbers in a slab."""
        return np.dtype(self.plan.dtype if slab.kind == "real" else slab.kind)

    def take(self, nbytes: int) -> int:
        """The next free place for so many bytes."""
        place = self.nbytes
        self.nbytes += -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT
        return place

    def close(self) -> None:
        """Give the memory back."""
        if self.base:
            self.device.free(self.base)
            self.base = 0

    def address(self, name: str) -> int:
        """Where a tensor begins in device memory."""
        tensor = self.tensors[name]
        return self.addresses[tensor.slab] + tensor.offset * self.kinds[tensor.slab].itemsize

    def upload(self, name: str, values: NDArray[Any]) -> None:
        """Copy numbers to where a tensor begins."""
        if values.size:
            kind = self.kinds[self.tensors[name].slab]
            self.device.upload(self.address(name), np.ascontiguousarray(values, dtype=kind))

    def download_slab(self, slab: str, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """A copy of a slab in host memory."""
        if out is None:
            out = np.empty(self.lengths[slab], self.kinds[slab])
        self.device.download(out, self.addresses[slab])
        return out

    def download(self, name: str) -> NDArray[Any]:
        """A tensor of one row, or all numbers of another, as they lie."""
        tensor = self.tensors[name]
        count = tensor.columns if tensor.rows == 1 else tensor.elements
        values = np.empty(count, self.kinds[tensor.slab])
        self.device.download(values, self.address(name))
        return values

    def panels(
        self, name: str, slab: NDArray[Any]
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """The panels of a tensor in a host copy of its slab: first column, and a view."""
        tensor = self.tensors[name]
        geometry = self.plan.geometry
        panel = geometry.panel_lines * geometry.alignment // slab.itemsize
        for column in range(0, tensor.padded_columns, panel):
            width = min(panel, tensor.padded_columns - column)
            begin = tensor.offset + column * tensor.rows
            yield column, slab[begin : begin + tensor.rows * width].reshape(tensor.rows, width)

    def write(self, name: str, slab: NDArray[Any], matrix: NDArray[Any]) -> None:
        """Fill a tensor in a host copy of its slab."""
        tensor = self.tensors[name]
        matrix = np.broadcast_to(matrix, (tensor.rows, tensor.columns))
        for column, panel in self.panels(name, slab):
            columns = min(panel.shape[1], tensor.columns - column)
            panel[:, :columns] = matrix[:, column : column + columns]
