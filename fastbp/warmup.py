"""Compiling ahead: every kernel that a choice of settings can need, into the cache on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from fastbp.activations import Activation
from fastbp.backends.choose import compiled_kernels, create_engine, create_few_rows, geometry
from fastbp.layers import Dense, Dropout, LayerNorm, Residual
from fastbp.losses import Loss
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.plan import build_plan

__all__ = ["warm_up"]

PURPOSES = ("train", "evaluate", "gradient", "input_gradient", "vjp", "predict")


def warm_up(
    dtypes: Iterable[str],
    activations: Iterable[Activation],
    losses: Iterable[Loss],
    optimizers: Iterable[Optimizer],
    report: Callable[[str], None] = lambda name: None,
) -> int:
    """Compile what training and use of networks with these settings need.

    Parameters
    ----------
    dtypes : iterable of str
    activations, losses, optimizers : iterables
        Of objects; each is compiled once, whatever its settings, except where a setting chooses
        another law (momentum, amsgrad, centered).
    report : callable, optional
        Called with the name of what is about to be compiled.

    Returns
    -------
    int
        Kernels that were compiled, or read from the cache.
    """
    activations, losses, optimizers = tuple(activations), tuple(losses), tuple(optimizers)
    before = compiled_kernels()
    for dtype in dtypes:
        other = [LayerNorm(), Residual([Dense(3, activations[0]), Dropout(0.5)])]
        for purpose in PURPOSES:
            build(Network(3, other), purpose, losses[0], optimizers[0], dtype, 32)
        for activation in activations:
            report(f"{activation.name}, {dtype}")
            compile_all(activation, losses[0], optimizers[0], dtype, ("predict",))
        for loss in losses:
            report(f"{loss.name}, {dtype}")
            compile_all(activations[0], loss, optimizers[0], dtype, PURPOSES)
        for optimizer in optimizers:
            report(f"{optimizer.name}, {dtype}")
            compile_all(activations[0], losses[0], optimizer, dtype, ("train",))
    return compiled_kernels() - before


def compile_all(
    activation: Activation, loss: Loss, optimizer: Optimizer, dtype: str, purposes: Iterable[str]
) -> None:
    """Build engines of small networks that have every kind of step."""
    # Panels of one to four lines; and layers so narrow that many rows lie in lanes.
    network = Network(3, [Dense(112, activation), Dense(24, activation), Dense(2)])
    narrow = Network(3, [Dense(5, activation), Dense(2)])
    for purpose in purposes:
        build(network, purpose, loss, optimizer, dtype, 32)
    build(narrow, "train", loss, optimizer, dtype, geometry("cpu").lane_rows)


def build(
    network: Network,
    purpose: str,
    loss: Loss,
    optimizer: Optimizer,
    dtype: str,
    rows: int,
) -> None:
    """Build the engine of one plan, which compiles its kernels."""
    plan = build_plan(
        network,
        purpose,
        dtype,
        rows,
        geometry("cpu"),
        loss=None if purpose in {"predict", "vjp"} else loss,
        optimizer=optimizer if purpose == "train" else None,
    )
    create_engine(plan, parallel=None if purpose == "predict" else True)
    if purpose == "predict":
        create_few_rows(plan, np.zeros(network.parameter_count, dtype=dtype))
