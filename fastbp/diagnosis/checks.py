"""What may be wrong, one function each: from what was seen to findings.

A check sees what was found before it, so that a consequence is not reported beside its cause. The
limits were chosen on 18 healthy networks, each before training, after one epoch and after sixty,
and on 27 with a trouble built in (docs/diagnosis.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastbp.diagnosis.loss_checks import wrong_loss
from fastbp.diagnosis.observation import TRIAL_STEPS, LayerView, Observation, norm
from fastbp.diagnosis.report import Finding

__all__ = ["CHECKS", "CHECKS_OF_ANYTHING"]

LARGE, SMALL = 10.0, 0.03  # root mean squares of inputs; of the largest column
LARGE_TARGETS, SMALL_TARGETS = 30.0, 0.01
STEEP = 100.0  # gradient norm by parameter norm
SPREAD = 30.0  # largest gradient norm of a batch by the median
GENTLE_STEP = 0.01  # of the parameters' norm: what a clipped step may be
VANISHED = 5e-3  # gradient norm of the first layer's weights by that of the last layer
SATURATED = 0.5
DEAD, MOSTLY_DEAD = 0.4, 0.9
LEARNED = 0.3  # what the loss has fallen by, of a constant's, for a network that has learned
UNSTABLE = 4.0  # learning rate by the best one, without momentum
WORSE = 0.05  # what a trial adds to the loss of doing nothing, by its size
IDLE_RATE, IDLE_MOVE = 1e-3, 1e-4  # learning rate by the best one; change of parameters an epoch

UNSCALED = {"unscaled_inputs", "unscaled_targets"}


def unscaled_inputs(seen: Observation, found: set[str]) -> Iterator[Finding]:
    """Columns of X far from the size for which initial values are made."""
    sizes = root_mean_squares(seen.sample.inputs)
    largest = int(np.argmax(sizes))
    size = float(sizes[largest])
    if size > LARGE:
        some = sizes[sizes > 0]
        message = (
            f"column {largest} of X has a root mean square of {size:.3g}, the smallest "
            f"{some.min():.3g}; initial values are made for about 1."
        )
    elif 0 < size < SMALL:
        message = (
            f"no column of X has a root mean square above {size:.2g}; initial values are made for "
            "about 1."
        )
    else:
        return
    remedy = "standardize=True brings every column to a mean of 0 and a standard deviation of 1."
    if seen.is_scaled:
        remedy = "The model standardises its inputs, but by other data than these. " + remedy
    yield Finding(
        "unscaled_inputs",
        message,
        remedy,
        numbers={"column": largest, "root_mean_square": size},
        arguments={"standardize": True},
    )


def unscaled_targets(seen: Observation, found: set[str]) -> Iterator[Finding]:
    """Targets far from the size of the outputs that networks begin with."""
    if seen.loss.targets != "real":
        return
    size = float(root_mean_squares(seen.sample.targets).max())
    if SMALL_TARGETS <= size <= LARGE_TARGETS or size == 0:
        return
    yield Finding(
        "unscaled_targets",
        f"y has a root mean square of {size:.3g}; networks begin with outputs of about 1.",
        "standardize=True scales y as well, and predictions come back in its units.",
        numbers={"root_mean_square": size},
        arguments={"standardize": True},
    )


def exploding_gradients(seen: Observation, found: set[str]) -> Iterator[Finding]:
    """Gradients that are not finite, far larger than the parameters, or of very different sizes."""
    if seen.clip_norm is not None or found & UNSCALED:
        return
    weights = norm([seen.parameters])
    if not seen.is_finite:
        yield Finding(
            "exploding_gradients",
            "the loss or its gradient is not finite.",
            "Begin with smaller weights (initializer=), and put LayerNorm between deep layers.",
        )
        return
    norms = seen.batch_norms
    median, largest = float(np.median(norms)), float(norms.max())
    steepness = norm([seen.here[1]]) / weights if weights > 0 else 0.0
    # Of a network that has learned, the few rows that it still has wrong stand out.
    spread = largest / median if median > 0 and not has_learned(seen) else 1.0
    if steepness <= STEEP and spread <= SPREAD:
        return
    gentle = GENTLE_STEP * weights / seen.optimizer.learning_rate
    clip = rounded(min(median, gentle) if steepness > STEEP else median)
    numbers = {"steepness": steepness, "spread": spread, "clip_norm": clip}
    if steepness > STEEP:
        message = (
            f"the gradient's norm is {steepness:.2g} times that of the parameters (median "
            f"{median:.2g} over {len(norms)} batches)."
        )
        remedy = f"Begin with smaller weights (initializer=), or clip_norm={clip:g}."
    else:
        message = (
            f"the norm of a batch's gradient goes up to {largest:.2g}, {spread:.0f} times the "
            f"median of {median:.2g} over {len(norms)} batches."
        )
        remedy = f"clip_norm={clip:g} takes the outliers back; look at their rows as well."
    yield Finding(
        "exploding_gradients", message, remedy, numbers=numbers, arguments={"clip_norm": clip}
    )


def vanishing_gradients(seen: Observation, found: set[str]) -> Iterator[Finding]:
    """A first layer whose gradient is next to nothing beside that of the last one."""
    dense = [layer for layer in seen.layers if layer.weight_gradient_norm >= 0]
    if len(dense) < 2 or "unscaled_inputs" in found or dead_layers(seen):
        return
    first, last = dense[0], dense[-1]
    if not last.gradient_norm > 0:
        return
    ratio = first.weight_gradient_norm / last.gradient_norm
    if ratio >= VANISHED:
        return
    saturated = max((x.saturated_share for x in dense if x.saturated_share >= 0), default=0.0)
    message = (
        f"the gradient of layer {first.name} ({first.weight_gradient_norm:.2g}) is {ratio:.1g} of "
        f"that of layer {last.name} ({last.gradient_norm:.2g})"
    )
    if saturated > 0.01:
        message += f"; up to {100 * saturated:.0f}% of a layer's outputs are saturated"
    names = {layer.activation.name for layer in dense[:-1] if layer.activation is not None}
    if names & {"sigmoid", "softplus"} or saturated > SATURATED:
        remedy = 'activation="relu" or "gelu" in the hidden layers passes gradients on'
    else:
        remedy = "The default initial values suit the activation and keep gradients alike"
    yield Finding(
        "vanishing_gradients",
        message + ".",
        remedy + "; so do Residual blocks.",
        layer=first.name,
        numbers={
            "ratio": ratio,
            "first": first.weight_gradient_norm,
            "last": last.gradient_norm,
            "saturated_share": saturated,
        },
    )


def saturated_units(seen: Observation, found: set[str]) -> Iterator[Finding]:
    """Layers at the flat ends of their activation in a network that has not learned."""
    if has_learned(seen) or found & {"vanishing_gradients", "unscaled_inputs"}:
        return
    shares = [(x.saturated_share, x) for x in seen.layers if x.saturated_share > SATURATED]
    if not shares:
        return
    share, layer = max(shares, key=lambda pair: pair[0])
    yield Finding(
        "saturated_units",
        f"{100 * share:.0f}% of the outputs of layer {layer.name} lie at the flat ends of its "
        "activation, where the derivative is below 5% of the largest.",
        "Begin with smaller weights (initializer=), or take an activation without flat ends.",
        layer=layer.name,
        numbers={"share": share},
    )


def dead_units(seen: Observation, found: set[str]) -> Iterator[Finding]:
    """Units that no row of the sample switches on."""
    if "unscaled_inputs" in found:
        return
    for layer in dead_layers(seen)[:1]:
        yield Finding(
            "dead_units",
            f"{100 * layer.dead_share:.0f}% of the units of layer {layer.name} are off in all "
            f"{seen.sample.rows:,} rows: they learn nothing, and say nothing.",
            'New initial values, and then a smaller learning rate or activation="leaky_relu", keep '
            "units alive.",
            layer=layer.name,
            numbers={"share": layer.dead_share},
        )


def learning_rate_too_high(seen: Observation, found: set[str]) -> Iterator[Finding]:
    """A step over the valley, and a trial that says the same."""
    if found & (UNSCALED | {"exploding_gradients"}):
        return
    step, optimizer = seen.step, seen.optimizer
    if step is None or not step.best_rate > 0:
        return
    rate, momentum = optimizer.learning_rate, getattr(optimizer, "momentum", 0.0)
    by_best = rate / step.best_rate
    if by_best <= UNSTABLE:
        return
    before = max(seen.here[0], seen.constant_loss)
    if not seen.trial_loss > before + WORSE * abs(before):
        return
    better = rounded(step.best_rate * (1 - momentum))
    after = f"{seen.trial_loss:.3g}" if math.isfinite(seen.trial_loss) else "infinity"
    yield Finding(
        "learning_rate_too_high",
        f"{rate:g} is {by_best:.2g} times the rate at which the loss is lowest along the step, and "
        f"{TRIAL_STEPS} steps bring the loss from {seen.here[0]:.3g} to {after}.",
        f"A learning rate of {better:g} fits the curvature.",
        numbers={
            "learning_rate": rate,
            "best": step.best_rate,
            "suggestion": better,
            "trial_loss": seen.trial_loss,
        },
        arguments={"optimizer": replace(optimizer, learning_rate=better)},
    )


def learning_rate_too_low(seen: Observation, found: set[str]) -> Iterator[Finding]:
    """Steps that are nothing beside what the curvature allows, and beside the parameters."""
    if found & (UNSCALED | {"exploding_gradients", "vanishing_gradients"}):
        return
    step, optimizer = seen.step, seen.optimizer
    if step is None or not math.isfinite(step.best_rate) or not step.best_rate > 0:
        return
    momentum = getattr(optimizer, "momentum", 0.0)
    rate = optimizer.learning_rate / (1 - momentum)
    move = rate * step.length * math.ceil(seen.data.rows / seen.batch_size)
    if rate >= IDLE_RATE * step.best_rate or move >= IDLE_MOVE or has_learned(seen):
        return
    better = rounded(step.best_rate * (1 - momentum))
    yield Finding(
        "learning_rate_too_low",
        f"{optimizer.learning_rate:g} is {rate / step.best_rate:.1g} of the rate at which the loss "
        f"is lowest along the step; an epoch changes the parameters by {move:.1g} of their norm.",
        f"A learning rate of {better:g} fits the curvature.",
        numbers={
            "learning_rate": optimizer.learning_rate,
            "best": step.best_rate,
            "suggestion": better,
            "move": move,
        },
        arguments={"optimizer": replace(optimizer, learning_rate=better)},
    )


def has_learned(seen: Observation) -> bool:
    """Whether the loss is well below that of a constant."""
    return seen.here[0] < seen.constant_loss - LEARNED * abs(seen.constant_loss)


def dead_layers(seen: Observation) -> list[LayerView]:
    """Layers with too many dead units, the worst first."""
    limit = MOSTLY_DEAD if has_learned(seen) else DEAD
    found = [layer for layer in seen.layers if layer.dead_share >= limit]
    return sorted(found, key=lambda layer: -layer.dead_share)


def root_mean_squares(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each column."""
    wide = np.asarray(array, dtype=np.float64).reshape(len(array), -1)
    largest = float(np.abs(wide).max()) or 1.0  # squares may leave the range
    return np.asarray(np.sqrt(np.square(wide / largest).mean(axis=0)) * largest)


def rounded(value: float) -> float:
    """To two digits, as people write such numbers."""
    return float(f"{value:.1e}")


Check = Callable[[Observation, set[str]], Iterator[Finding]]

# Causes before their consequences. The first ones need no loss and no gradient that are finite.
CHECKS_OF_ANYTHING: tuple[Check, ...] = (
    wrong_loss,
    unscaled_inputs,
    unscaled_targets,
    exploding_gradients,
)
CHECKS: tuple[Check, ...] = (
    *CHECKS_OF_ANYTHING,
    vanishing_gradients,
    saturated_units,
    dead_units,
    learning_rate_too_high,
    learning_rate_too_low,
)
