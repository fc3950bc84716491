"""The public call."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastbp.arrays import as_targets
from fastbp.backends.choose import host_array, in_standard_arithmetic, resolve_threads
from fastbp.datasets import prepare_data
from fastbp.diagnosis.checks import CHECKS, CHECKS_OF_ANYTHING
from fastbp.diagnosis.observation import Observation, norm, observe
from fastbp.diagnosis.report import Diagnosis, Finding, LayerReport
from fastbp.losses import Loss
from fastbp.model import Model
from fastbp.optimizers import Adam, Optimizer
from fastbp.registry import finite, positive_integer

__all__ = ["diagnose"]


@in_standard_arithmetic
def diagnose(
    model: Model,
    X: Any,
    y: Any,
    loss: str | Loss = "mse",
    optimizer: str | Optimizer | None = None,
    batch_size: int = 256,
    sample_weight: Any = None,
    clip_norm: float | None = None,
    standardize: bool = False,
    class_weight: Any = None,
    seed: int = 0,
    threads: int | None = None,
) -> Diagnosis:
    """Say what is wrong with a network, its data or its settings, and what helps.

    Looks at up to 1024 rows, chosen by `seed`: at the outputs and gradients of each layer, at the
    gradients of batches, at the curvature of the loss along the step d of the optimizer, from two
    gradients ``(g(w) - g(w - h d)) / h``, and at the loss after 20 steps of training of a copy. It
    runs on the processor. A network before its training can be looked at as well as one after it.

    Parameters
    ----------
    model : Model
        Not changed.
    X, y, loss, optimizer, batch_size, sample_weight, clip_norm, standardize, class_weight
        As for `fastbp.train`: what the model is, or was, to be trained with.
    seed : int
        Of the sample.
    threads : int, optional
        As for `fastbp.train`.

    Returns
    -------
    Diagnosis

    Raises
    ------
    TypeError, ValueError
        As for `fastbp.train`.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
    networks, 2010 (vanishing gradients and saturation); Pascanu, Mikolov and Bengio, On the
    difficulty of training recurrent neural networks, 2013 (exploding gradients); Cohen et al.,
    Gradient descent on neural networks typically occurs at the edge of stability, 2021, and
    Adaptive gradient methods at the edge of stability, 2022 (curvature and learning rates).
    """
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a Model; got {type(model).__name__}")
    resolved = Loss.resolve(loss)
    if clip_norm is not None:
        finite("clip_norm", clip_norm, 0.0, open_low=True)
    batch_size = positive_integer("batch_size", batch_size)
    seed = positive_integer("seed", seed, low=0)
    data, _, scaling = prepare_data(
        model, X, y, sample_weight, None, standardize, resolved, seed, class_weight
    )
    raw = as_targets(host_array(y), resolved, data.rows, model.network.outputs, np.float64)
    seen = observe(
        model,
        data,
        raw,
        resolved,
        Adam() if optimizer is None else Optimizer.resolve(optimizer),
        batch_size,
        clip_norm,
        seed,
        resolve_threads(threads),
        is_scaled=scaling is not None,
    )
    findings: list[Finding] = []
    for check in CHECKS:
        if seen.is_finite or check in CHECKS_OF_ANYTHING:
            findings += check(seen, {finding.trouble for finding in findings})
    return report(seen, tuple(findings))


def report(seen: Observation, findings: tuple[Finding, ...]) -> Diagnosis:
    """What was found, and the numbers of what was seen."""
    layers = tuple(
        LayerReport(
            layer.name,
            layer.layer.label(),
            layer.gradient_norm,
            layer.parameter_norm,
            layer.dead_share,
            layer.saturated_share,
        )
        for layer in seen.layers
    )
    step = seen.step if seen.is_finite else None
    return Diagnosis(
        findings=findings,
        layers=layers,
        rows=seen.data.rows,
        rows_seen=seen.sample.rows,
        loss=seen.here[0],
        constant_loss=seen.constant_loss,
        gradient_norm=norm([seen.here[1]]),
        parameter_norm=norm([seen.parameters]),
        learning_rate=seen.optimizer.learning_rate,
        best_learning_rate=math.nan if step is None else step.best_rate,
    )
