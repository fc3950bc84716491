"""Whether a loss, what the last layer can give, and the targets belong together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.activations import Activation
from fastbp.diagnosis.observation import Observation
from fastbp.diagnosis.report import Finding

__all__ = ["wrong_loss"]

MOST_LABELS = 20  # integers of so few values may be classes
ROWS_A_LABEL = 10
OUT_OF_REACH = 0.01  # the share of targets outside the last layer's range that is worth a word
FAR, NEAR = 1e4, 100.0  # a law that stays within NEAR on inputs up to FAR is bounded
LOGITS = {
    "class": "logits",
    "probability": "logits",
    "count": "the logarithm of a rate",
}


def wrong_loss(seen: Observation, found: set[str]) -> Iterator[Finding]:
    """Targets that are classes, a single class, and a last layer that bounds its outputs."""
    yield from labels_as_numbers(seen)
    yield from one_class(seen)
    yield from outputs_out_of_reach(seen)


def labels_as_numbers(seen: Observation) -> Iterator[Finding]:
    """Classes given to a loss of real numbers."""
    if seen.loss.targets != "real":
        return
    targets, outputs = seen.raw_targets, seen.model.network.outputs
    name = seen.loss.name
    is_binary = bool(((targets == 0) | (targets == 1)).all())
    if outputs > 1:
        if is_binary and bool((targets.sum(axis=1) == 1).all()):
            yield Finding(
                "wrong_loss",
                f"every row of y has a single 1 and zeros, as classes have; the loss is {name}.",
                'loss="cross_entropy" with y.argmax(axis=1) is made for that.',
                numbers={"classes": outputs},
                arguments={"loss": "cross_entropy"},
            )
        return
    values = np.unique(targets)
    if len(values) == 2:
        low, high = values.tolist()
        remedy = 'loss="binary_cross_entropy" gives probabilities.'
        if not is_binary:
            remedy = f'loss="binary_cross_entropy" with 0 for {low:g} and 1 for {high:g} does that.'
        yield Finding(
            "wrong_loss",
            f"y has two values alone, {low:g} and {high:g}, as two classes have; the loss is "
            f"{name}.",
            remedy,
            numbers={"values": 2},
            arguments={"loss": "binary_cross_entropy"} if is_binary else {},
        )
        return
    are_labels = (
        2 < len(values) <= MOST_LABELS
        and len(targets) >= ROWS_A_LABEL * len(values)
        and values[0] in {0, 1}
        and bool((np.diff(values) == 1).all())
    )
    if are_labels:
        yield Finding(
            "wrong_loss",
            f"y has the integers {values[0]:g} to {values[-1]:g} alone; the loss is {name}.",
            f'If they are classes, take {len(values)} outputs and loss="cross_entropy"; if they '
            'are counts, loss="poisson".',
            numbers={"values": len(values)},
        )


def one_class(seen: Observation) -> Iterator[Finding]:
    """Targets from which nothing can be told apart."""
    targets = seen.raw_targets
    if seen.loss.targets == "real" or len(targets) < 2 or targets.max() != targets.min():
        return
    yield Finding(
        "wrong_loss",
        f"all {len(targets):,} targets are {targets.flat[0]:g}: there is nothing to tell apart.",
        "Is y the right column, and X not a part that was sorted by it?",
        numbers={"value": float(targets.flat[0])},
    )


def outputs_out_of_reach(seen: Observation) -> Iterator[Finding]:
    """A last activation that bounds what has no bounds, or other ones."""
    activation = getattr(seen.model.network.layers[-1], "activation", None)
    if not isinstance(activation, Activation):
        return
    low, high = bounds(activation)
    if low == -math.inf and high == math.inf:
        return
    layer = str(len(seen.model.network.layers) - 1)
    gives = f"the last layer's {activation.name} gives numbers {in_words(low, high)}"
    linear = 'The last layer should be linear: activation="identity".'
    numbers = {"low": low, "high": high}
    meaning = LOGITS.get(seen.loss.targets)
    if meaning is not None:
        message = f"{gives}; {seen.loss.name} takes them as {meaning}, which have no such bound."
        yield Finding("wrong_loss", message, linear, layer, numbers)
        return
    targets = np.asarray(seen.data.targets, dtype=np.float64)
    outside = float(((targets < low) | (targets > high)).mean())
    if outside > OUT_OF_REACH:
        numbers["share"] = outside
        message = f"{gives}, and {100 * outside:.0f}% of the targets lie outside."
        yield Finding("wrong_loss", message, linear, layer, numbers)


def bounds(activation: Activation) -> tuple[float, float]:
    """The least and the largest value of a law; infinite where it has no such."""
    inputs = np.r_[-FAR, np.linspace(-10, 10, 401), FAR]
    law: Any = getattr(activation.law, "py_func", activation.law)
    try:
        with np.errstate(all="ignore"):
            values: NDArray[np.float64] = np.array(
                [law(float(z), activation.settings)[0] for z in inputs]
            )
    except Exception:  # a user's law may need what is compiled
        return -math.inf, math.inf
    if not np.isfinite(values).all():
        return -math.inf, math.inf
    low, high = float(values.min()), float(values.max())
    return (low if low > -NEAR else -math.inf), (high if high < NEAR else math.inf)


def in_words(low: float, high: float) -> str:
    """A range that has an end."""
    if high == math.inf:
        return f"of at least {low:.3g}"
    if low == -math.inf:
        return f"of at most {high:.3g}"
    return f"from {low:.3g} to {high:.3g}"
