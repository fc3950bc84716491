"""The parameters on a device, and what training keeps beside them, to and from host memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.cuda.buffers import Buffers
from fastbp.backends.cuda.state import read_state, write_state
from fastbp.backends.layout import FlatParameters
from fastbp.plan import Plan

__all__ = ["ParametersOfEngine"]


class ParametersOfEngine:
    """The part of an engine that brings parameters and state to the device, and back."""

    plan: Plan
    device: Any
    flat: FlatParameters
    buffers: Buffers
    scalars: NDArray[np.float64]  # as they were on the device when last looked at

    def prepare(self) -> None:
        """Take the device memory that is missing."""

    def fill_slots(self) -> None:
        """Give the optimizer's slots their initial values, if these are not zero."""
        optimizer = self.plan.optimizer
        if optimizer is None or not any(map(optimizer.initial_slot, optimizer.slots)):
            return
        slab = self.buffers.download_slab("slots")
        for name, _ in self.plan.network.parameters():
            for slot in optimizer.slots:
                value = np.array(optimizer.initial_slot(slot))
                self.buffers.write(f"{name}.{slot}", slab, value)
        self.device.upload(self.buffers.addresses["slots"], slab)

    def load_parameters(self, flat: NDArray[Any]) -> None:
        """Copy a flat parameter vector to the device, and its transposed copies.

        Raises
        ------
        DeviceError
            As `prepare`.
        """
        self.prepare()
        slabs = {
            name: np.zeros(self.buffers.lengths[name], self.buffers.kinds[name])
            for name in ("parameters", "transposed")
            if name in self.buffers.lengths
        }
        for name, matrix in self.flat.matrices(flat):
            self.buffers.write(name, slabs["parameters"], matrix)
            if f"{name}.transposed" in self.buffers.tensors:
                self.buffers.write(f"{name}.transposed", slabs["transposed"], matrix.T)
        for name, slab in slabs.items():
            self.device.upload(self.buffers.addresses[name], slab)

    def load_scalars(self, values: NDArray[np.float64]) -> None:
        """Set all scalars, on the device too."""
        self.scalars[...] = values
        self.buffers.upload("scalars", self.scalars)

    def fetch_scalars(self) -> None:
        """Look at the scalars on the device."""
        self.device.download(self.scalars, self.buffers.address("scalars"))

    def snapshot(self, out: NDArray[Any] | None = None, slab: str = "parameters") -> NDArray[Any]:
        """A copy of the slab of the parameters in host memory; into `out`, if given.

        The slab of their ``"averages"`` is laid out in the same way.
        """
        return self.buffers.download_slab(slab, out)

    def store_parameters(self, flat: NDArray[Any], snapshot: NDArray[Any] | None = None) -> None:
        """Copy the parameters, or those of a snapshot, into a flat vector."""
        slab = snapshot
        if slab is None:
            slab = self.snapshot()
            self.fetch_scalars()
        for name, matrix in self.flat.matrices(flat):
            self.buffers.read(name, slab, matrix)

    def store_gradient(self, flat: NDArray[Any]) -> None:
        """Copy the gradient into a flat vector."""
        slab = self.buffers.download_slab("gradients")
        for name, matrix in self.flat.matrices(flat):
            self.buffers.read(f"{name}.gradient", slab, matrix)

    def read_state(self) -> dict[str, NDArray[Any]]:
        """What training has changed, in flat vectors and in the order of the network."""
        return read_state(self)

    def write_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state that `read_state` gave."""
        write_state(self, state)
