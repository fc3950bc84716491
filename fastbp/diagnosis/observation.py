"""What a diagnosis looks at: layers, gradients, a step, and a short trial, on some of the rows."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from fastbp.activations import Activation
from fastbp.datasets import Data
from fastbp.initializers import keyed_generator
from fastbp.layers import Dense, Layer
from fastbp.losses import Loss
from fastbp.model import Model
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.training import train

__all__ = ["LayerView", "Observation", "StepView", "norm", "observe"]

SAMPLE_STREAM = 2**63 + 2**20  # of the generator: apart from initial values, splits and checks
SAMPLE_ROWS = 1024
BATCHES = 16  # of the sample, at most, whose gradients are compared
NUDGE = 1e-3  # the length of a step along which the gradient is followed, of the parameters' norm
TRIAL_STEPS = 20


@dataclass(frozen=True)
class LayerView:
    """A layer as the sample sees it; NaN where a number makes no sense.

    Attributes
    ----------
    name : str
        As in `Network.members`.
    layer : Layer
    gradient_norm, parameter_norm : float
        Of all its parameters, for the whole sample.
    weight_gradient_norm : float
        Of its weights alone.
    dead_share : float
        Of its units, those that are idle (`Activation.idle_outputs`) in every row.
    saturated_share : float
        Of its outputs, those that are saturated (`Activation.saturated_outputs`).
    """

    name: str
    layer: Layer
    gradient_norm: float
    weight_gradient_norm: float
    parameter_norm: float
    dead_share: float
    saturated_share: float

    @property
    def activation(self) -> Activation | None:
        """Its activation, if it has one."""
        found = getattr(self.layer, "activation", None)
        return found if isinstance(found, Activation) else None


@dataclass(frozen=True)
class StepView:
    """The loss along a step d of the optimizer, at a learning rate of 1, to second order.

    ``L(w - rate d) = L(w) - rate slope + rate**2 / 2 curvature``. For optimizers that divide each
    component of the gradient by its running size, d is the gradient by the root of the mean square
    over the batches of the sample.

    Attributes
    ----------
    slope : float
        gradient . d, never negative.
    curvature : float
        d . H d, with the Hessian H.
    length : float
        |d| by the norm of the parameters.
    """

    slope: float
    curvature: float
    length: float

    @property
    def best_rate(self) -> float:
        """At which the loss is lowest along the step; infinite where it does not bend upwards."""
        return self.slope / self.curvature if self.curvature > 0 else math.inf


@dataclass(frozen=True)
class Observation:
    """What is known of a network on some rows, worked out where it is asked for.

    Attributes
    ----------
    model : Model
        A copy, without scaling.
    data : Data
        All rows, as the network sees them.
    sample : Data
        Some of them.
    raw_targets : array
        All targets in the units of the user.
    loss : Loss
    optimizer : Optimizer
    batch_size : int
    clip_norm : float or None
    seed : int
    threads : int or None
    is_scaled : bool
        Whether the model standardises its inputs.
    """

    model: Model
    data: Data
    sample: Data
    raw_targets: NDArray[Any]
    loss: Loss
    optimizer: Optimizer
    batch_size: int
    clip_norm: float | None
    seed: int
    threads: int | None
    is_scaled: bool

    def loss_and_gradient(
        self, parameters: NDArray[np.float64], data: Data
    ) -> tuple[float, NDArray[np.float64]]:
        """Of the loss at some parameters."""
        probe = copy.copy(self.model)
        with np.errstate(over="ignore"):
            probe.parameters = parameters
        loss, gradient = probe.loss_and_gradient(data.inputs, data.targets, self.loss, data.weights)
        return loss, np.asarray(gradient, dtype=np.float64)

    @cached_property
    def parameters(self) -> NDArray[np.float64]:
        """Of the model, in float64."""
        return np.asarray(self.model.parameters, dtype=np.float64)

    @cached_property
    def here(self) -> tuple[float, NDArray[np.float64]]:
        """Loss and gradient of the sample."""
        return self.loss_and_gradient(self.parameters, self.sample)

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient of the sample are numbers."""
        loss, gradient = self.here
        return math.isfinite(loss) and bool(np.isfinite(gradient).all())

    @cached_property
    def layers(self) -> tuple[LayerView, ...]:
        """Every layer that is made of no others."""
        data = {
            "inputs": self.sample.inputs,
            "targets": self.sample.targets,
            "weights": self.sample.weights,
        }
        network, flat = self.model.network, self.model.parameters
        run = self.model._engines.run("gradient", flat, data, self.loss, "cpu")
        outputs: dict[str, NDArray[np.float64]] = {}
        with run as engine:
            tensors = {tensor.name for tensor in engine.plan.tensors}
            for name, _, _ in network.members():
                if f"{name}.output" in tensors:
                    rows = engine.read_rows(f"{name}.output", rows=self.sample.rows)
                    outputs[name] = np.array(rows, dtype=np.float64)
        gradients, parameters = network.views(self.here[1]), network.views(self.parameters)
        views = []
        for name, layer, _ in network.members():
            mine = [key for key in parameters if key.rpartition(".")[0] == name]
            activation = getattr(layer, "activation", None)
            idle = saturated = None
            if isinstance(activation, Activation) and name in outputs:
                idle = activation.idle(outputs[name])
                saturated = activation.saturated(outputs[name])
            views.append(
                LayerView(
                    name=name,
                    layer=layer,
                    gradient_norm=norm([gradients[key] for key in mine]),
                    weight_gradient_norm=norm(
                        [gradients[key] for key in mine if key.endswith(".weight")]
                    ),
                    parameter_norm=norm([parameters[key] for key in mine]),
                    dead_share=math.nan if idle is None else float(idle.all(axis=0).mean()),
                    saturated_share=math.nan if saturated is None else float(saturated.mean()),
                )
            )
        return tuple(views)

    @cached_property
    def batch_gradients(self) -> NDArray[np.float64]:
        """The gradients of some batches of the sample: (batches, parameters)."""
        rows = min(self.batch_size, max(self.sample.rows // BATCHES, 1))
        starts = range(0, self.sample.rows - rows + 1, rows)[:BATCHES]
        parts = [part(self.sample, np.arange(start, start + rows)) for start in starts]
        return np.array(
            [
                self.loss_and_gradient(self.parameters, each)[1]
                for each in parts
                if each.weights is None or each.weights.any()
            ]
        )

    @cached_property
    def batch_norms(self) -> NDArray[np.float64]:
        """Their norms."""
        return np.asarray(np.sqrt(np.square(self.batch_gradients).sum(axis=1)))

    @cached_property
    def step(self) -> StepView | None:
        """The step that the optimizer would take; None for those that choose its length."""
        gradient = self.here[1]
        if self.optimizer.step_follows == "gradient":
            direction = gradient
        elif self.optimizer.step_follows == "root_mean_square":
            size = np.sqrt(np.square(self.batch_gradients).mean(axis=0))
            direction = np.divide(gradient, size, out=np.zeros_like(gradient), where=size > 0)
        else:
            return None
        length, scale = norm([direction]), norm([self.parameters])
        if not (length > 0 and scale > 0 and math.isfinite(length)):
            return None
        nudge = NUDGE * scale / length
        _, there = self.loss_and_gradient(self.parameters - nudge * direction, self.sample)
        if not np.isfinite(there).all():
            return None
        curvature = float(((gradient - there) * direction).sum()) / nudge
        return StepView(float((gradient * direction).sum()), curvature, length / scale)

    @cached_property
    def trial_loss(self) -> float:
        """The loss of the sample after some steps of training; infinite where they diverge."""
        probe = copy.copy(self.model)
        rows = min(self.data.rows, TRIAL_STEPS * self.batch_size)
        chosen = keyed_generator(self.seed, SAMPLE_STREAM + 1).permutation(self.data.rows)[:rows]
        some = part(self.data, chosen)
        per_epoch = -(-rows // min(self.batch_size, rows))
        result = train(
            probe,
            some.inputs,
            some.targets,
            self.loss,
            self.optimizer,
            epochs=max(TRIAL_STEPS // per_epoch, 1),
            batch_size=self.batch_size,
            sample_weight=some.weights,
            clip_norm=self.clip_norm,
            seed=self.seed,
            device="cpu",
            threads=self.threads,
            on_divergence="stop",
        )
        if not result.success:
            return math.inf
        sample = self.sample
        return probe.loss(sample.inputs, sample.targets, self.loss, sample.weights)

    @cached_property
    def constant_loss(self) -> float:
        """The least loss of the sample that outputs have which are the same for every row.

        Found by the last layer's biases, its weights at zero: so no other kernels are needed.
        """
        sample, outputs = self.sample, self.model.network.outputs
        last = f"{len(self.model.network.layers) - 1}."
        constant, inputs = copy.copy(self.model), sample.inputs
        if not {f"{last}weight", f"{last}bias"} <= set(constant.weights):
            constant = Model(Network(1, [Dense(outputs)]), dtype=self.model.dtype)
            inputs, last = np.zeros((sample.rows, 1)), "0."
        bias = constant.weights[f"{last}bias"]
        constant.weights[f"{last}weight"][...] = 0

        def loss_of(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            bias[...] = values
            loss, gradient = constant.loss_and_gradient(
                inputs, sample.targets, self.loss, sample.weights
            )
            by_name = constant.network.views(gradient)
            return loss, by_name[f"{last}bias"].astype(np.float64)

        found = minimize(loss_of, np.zeros(outputs), jac=True, method="L-BFGS-B")
        return float(found.fun)


def norm(arrays: list[NDArray[np.float64]]) -> float:
    """The norm of all numbers in some arrays; NaN of none."""
    if not arrays:
        return math.nan
    return math.sqrt(sum(float(np.square(array).sum()) for array in arrays))


def part(data: Data, rows: NDArray[np.int64]) -> Data:
    """Some rows."""
    return Data(
        np.ascontiguousarray(data.inputs[rows]),
        np.ascontiguousarray(data.targets[rows]),
        None if data.weights is None else np.ascontiguousarray(data.weights[rows]),
    )


def observe(
    model: Model,
    data: Data,
    raw_targets: NDArray[Any],
    loss: Loss,
    optimizer: Optimizer,
    batch_size: int,
    clip_norm: float | None,
    seed: int,
    threads: int | None,
    is_scaled: bool,
) -> Observation:
    """Begin to look: choose the sample.

    Parameters
    ----------
    model : Model
    data : Data
        As the network sees it.
    raw_targets : array
        In the units of the user.
    loss, optimizer, batch_size, clip_norm, seed, threads
        As for `fastbp.train`.
    is_scaled : bool
        Whether the model standardises its inputs.
    """
    probe = copy.copy(model)
    probe.scaling = None
    chosen = keyed_generator(seed, SAMPLE_STREAM).permutation(data.rows)[:SAMPLE_ROWS]
    sample = part(data, chosen)
    if sample.weights is not None and not sample.weights.any():
        sample = replace(sample, weights=None)
    return Observation(
        model=probe,
        data=replace(data, sources={}),
        sample=sample,
        raw_targets=raw_targets,
        loss=loss,
        optimizer=optimizer,
        batch_size=batch_size,
        clip_norm=clip_norm,
        seed=seed,
        threads=threads,
        is_scaled=is_scaled,
    )
