"""What training has changed in an engine, as plain arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.layout import write_panels

__all__ = ["read_state", "write_state"]


def read_state(engine: Any) -> dict[str, NDArray[Any]]:
    """The parameters, slots and averages of a training engine as flat vectors, and its scalars.

    Padding is left out, and so is what depends on the processor: the state of one machine goes on
    on another.
    """
    plan = engine.plan

    def flat() -> NDArray[Any]:
        return np.empty(plan.network.parameter_count, dtype=plan.dtype)

    state = {"parameters": flat()}
    engine.store_parameters(state["parameters"])
    for slot in plan.optimizer.slots:
        state[f"slot.{slot}"] = flat()
        engine.store(state[f"slot.{slot}"], f".{slot}")
    if plan.ema is not None:
        state["averages"] = flat()
        engine.store_parameters(state["averages"], engine.buffers.slabs["averages"])
    state["scalars"] = engine.scalars.copy()
    state["carry"] = engine.buffers.vector("carry").copy()
    return state


def write_state(engine: Any, state: Mapping[str, NDArray[Any]]) -> None:
    """Put a state back."""
    plan, buffers = engine.plan, engine.buffers
    engine.load_parameters(state["parameters"])
    for slot in plan.optimizer.slots:
        for name, matrix in engine.flat.matrices(state[f"slot.{slot}"]):
            buffers.write(f"{name}.{slot}", matrix)
    if plan.ema is not None:
        slab = buffers.slabs["averages"]
        for name, matrix in engine.flat.matrices(state["averages"]):
            write_panels(buffers.tensors[name], plan.geometry, slab, matrix)
            copy = buffers.tensors.get(f"{name}.transposed")
            if copy is not None and copy.slab == "parameters":
                write_panels(copy, plan.geometry, slab, matrix.T)
    engine.load_scalars(state["scalars"])
    buffers.vector("carry")[:] = state["carry"]
