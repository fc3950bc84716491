"""The settings of a training that the options of ``fastbp train`` mean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from fastbp.class_weights import BALANCED, PAIRS
from fastbp.learning_rate import find_learning_rate
from fastbp.losses import BinaryCrossEntropy, CrossEntropy, Loss
from fastbp.model import Model
from fastbp.optimizers import AdamW, Optimizer
from fastbp.registry import finite
from fastbp.tables import number

__all__ = [
    "AUTO",
    "choose_class_weight",
    "choose_loss",
    "choose_optimizer",
    "parse_layers",
    "rate_or_auto",
    "with_found_rate",
]

# Of the default optimizer, AdamW. Chosen with --layers, --batch-size and the schedule by the mean
# test RMSE of four seeds on California housing (docs/tuning.md).
LEARNING_RATE, WEIGHT_DECAY = 0.005, 0.05
AUTO = "auto"  # for a learning rate that is to be found
# The arguments of `fastbp.train` that the range test takes as well.
TESTED_WITH = (
    "loss",
    "optimizer",
    "batch_size",
    "clip_norm",
    "standardize",
    "class_weight",
    "seed",
    "device",
    "threads",
)


def parse_layers(text: str) -> list[int]:
    """``"64,64"`` -> [64, 64]; empty means no hidden layer."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(
            f"--layers: expected integers separated by commas, such as 64,64; got {text!r}"
        ) from None


def rate_or_auto(text: str) -> float | str:
    """What ``--learning-rate`` may be: a number, or ``auto``."""
    return AUTO if text == AUTO else float(text)


def choose_optimizer(name: str, learning_rate: float | str | None) -> Optimizer:
    """The optimizer of the options; with ``auto`` its rate is yet to be found."""
    chosen = Optimizer.resolve(name, "--optimizer")
    if isinstance(chosen, AdamW):
        chosen = replace(chosen, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    if learning_rate is not None and not isinstance(learning_rate, str):
        finite("--learning-rate", learning_rate, 0.0, open_low=True)
        chosen = replace(chosen, learning_rate=learning_rate)
    return chosen


def with_found_rate(model: Model, X: Any, y: Any, settings: dict[str, Any]) -> Optimizer:
    """The optimizer of a training with the learning rate of the range test.

    Parameters
    ----------
    model : Model
    X, y : array
        The training rows.
    settings : dict
        The arguments of `fastbp.train`.

    Raises
    ------
    ValueError
        Where the loss falls at no rate.
    """
    shared = {name: settings[name] for name in TESTED_WITH}
    found = find_learning_rate(model, X, y, **shared)
    if not math.isfinite(found.suggestion):
        raise ValueError(f"--learning-rate: {found.message} Give a number instead of {AUTO}.")
    optimizer: Optimizer = replace(settings["optimizer"], learning_rate=found.suggestion)
    return optimizer


def choose_loss(name: str | None, label_smoothing: float, *, has_classes: bool) -> Loss:
    """The loss of the options, or the default of the task; refused where it is of the other."""
    loss = Loss.resolve(name or ("cross_entropy" if has_classes else "mse"), "--loss")
    if (loss.targets == "class") != has_classes:
        task = "classification" if has_classes else "regression"
        raise ValueError(f"--loss: expected a loss for {task}; got {loss.name}")
    if isinstance(loss, CrossEntropy | BinaryCrossEntropy):
        return replace(loss, label_smoothing=label_smoothing)
    if label_smoothing != 0:
        raise ValueError(
            "--label-smoothing: expected the loss cross_entropy or binary_cross_entropy; "
            f"got {loss.name}"
        )
    return loss


def choose_class_weight(
    text: str | None, loss: Loss, classes: list[Any] | None
) -> str | dict[int, float] | None:
    """The `class_weight=` of the options: as it is, or by label where classes are named.

    Parameters
    ----------
    text : str or None
        ``"balanced"``, or ``"NAME=WEIGHT,NAME=WEIGHT"``; names may contain commas and signs of
        equality.
    loss : Loss
    classes : list or None
        The names of the labels, of the table; None for a target of numbers.

    Raises
    ------
    TypeError, ValueError
        For a loss without classes, names that no class has or that stand twice, and what is no
        number of at least 0.
    """
    if text is None:
        return None
    if classes is None and loss.targets not in PAIRS:
        raise ValueError(
            f"--class-weight: expected classes; got a target of numbers with the loss {loss.name} "
            "(--task classification takes every value as a class)"
        )
    if text == BALANCED:
        return text
    named = enumerate(classes) if classes is not None else ((i, i) for i in PAIRS[loss.targets])
    labels = {str(name): label for label, name in named}
    weights: dict[int, float] = {}
    rest = text
    while rest or not weights:
        # The longest, since a=b may be a class as well as a.
        found = [name for name in labels if rest.startswith(f"{name}=")]
        if not found:
            raise ValueError(
                f"--class-weight: expected {BALANCED} or NAME=WEIGHT,NAME=WEIGHT with names out of "
                f"{', '.join(labels)}; got {rest!r}"
            )
        name = max(found, key=len)
        weight, _, rest = rest[len(name) + 1 :].partition(",")
        rest = rest.lstrip()
        if number(weight) is None:
            raise ValueError(f"--class-weight: expected a number for {name!r}; got {weight!r}")
        finite(f"--class-weight {name}", number(weight), 0.0)
        if labels[name] in weights:
            raise ValueError(f"--class-weight: expected every class once; got {name!r} again")
        weights[labels[name]] = float(weight)
    return weights
