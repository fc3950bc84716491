"""What training has changed on a device, as plain arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_state", "write_state"]


def read_state(engine: Any) -> dict[str, NDArray[Any]]:
    """The parameters, slots and averages of a training engine as flat vectors, and its scalars.

    Padding is left out, and so is how the plan lays them out: the state of one GPU goes on on
    another. What the host knows of the scalars may be older: Ctrl-C may have ended a call.
    """
    plan, buffers = engine.plan, engine.buffers

    def flat() -> NDArray[Any]:
        return np.empty(plan.network.parameter_count, dtype=plan.dtype)

    state = {"parameters": flat()}
    engine.store_parameters(state["parameters"])
    slots = plan.optimizer.slots
    slab = buffers.download_slab("slots") if slots else None
    for slot in slots:
        state[f"slot.{slot}"] = flat()
        for name, matrix in engine.flat.matrices(state[f"slot.{slot}"]):
            buffers.read(f"{name}.{slot}", slab, matrix)
    if plan.ema is not None:
        state["averages"] = flat()
        engine.store_parameters(state["averages"], engine.snapshot(slab="averages"))
    engine.fetch_scalars()
    state["scalars"] = engine.scalars.copy()
    state["carry"] = buffers.download("carry")
    return state


def write_state(engine: Any, state: Mapping[str, NDArray[Any]]) -> None:
    """Put a state back."""
    plan, buffers, device = engine.plan, engine.buffers, engine.device
    engine.load_parameters(state["parameters"])  # which takes the memory, if there is none yet
    slots = plan.optimizer.slots
    if slots:
        slab = buffers.download_slab("slots")
        for slot in slots:
            for name, matrix in engine.flat.matrices(state[f"slot.{slot}"]):
                buffers.write(f"{name}.{slot}", slab, matrix)
        device.upload(buffers.addresses["slots"], slab)
    if plan.ema is not None:
        slab = np.zeros(buffers.lengths["averages"], plan.dtype)
        for name, matrix in engine.flat.matrices(state["averages"]):
            buffers.write(name, slab, matrix)
        device.upload(buffers.addresses["averages"], slab)
    engine.load_scalars(state["scalars"])
    buffers.upload("carry", state["carry"])
