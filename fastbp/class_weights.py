"""Class weights: what a `class_weight=` argument means, as a weight for each row."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.arrays import real_array
from fastbp.losses import Loss
from fastbp.registry import finite

__all__ = ["BALANCED", "PAIRS", "class_indices", "resolve_class_weights", "weights_of_rows"]

BALANCED = "balanced"
# The classes of the losses whose targets are two numbers, by what their targets may be.
PAIRS = {"probability": (0, 1), "sign": (-1, 1)}


def class_indices(
    targets: NDArray[Any], loss: Loss, outputs: int
) -> tuple[Sequence[int], NDArray[np.int64]]:
    """The classes that targets may have, and the place among them of each row's.

    Parameters
    ----------
    targets : array
        Checked, as `as_targets` gives them.
    loss : Loss
    outputs : int
        Of the network.

    Returns
    -------
    sequence of int, array (rows,)

    Raises
    ------
    ValueError
        For a loss that knows no classes, for several outputs of a loss of two classes, and for
        targets between the two.
    """
    if loss.targets == "class":
        return range(outputs), targets
    if loss.targets not in PAIRS:
        raise ValueError(f"class_weight: expected a loss of classes; got {loss.name}")
    if outputs != 1:
        raise ValueError(
            f"class_weight: expected one output with {loss.name}, so that a row has one class; "
            f"got {outputs}"
        )
    classes, column = PAIRS[loss.targets], targets[:, 0]
    outside = ~np.isin(column, classes)
    if outside.any():
        i = int(np.argmax(outside))
        raise ValueError(
            f"class_weight: expected {classes[0]} and {classes[1]} as targets; "
            f"got {column[i]} at row {i}"
        )
    return classes, (column == classes[1]).astype(np.int64)


def resolve_class_weights(
    value: Any, classes: Sequence[int], indices: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The weight of each class, of which only the ratios count.

    Parameters
    ----------
    value : str, mapping or array (classes,)
        As for `fastbp.train`.
    classes : sequence of int
    indices : array (rows,)
        The place of each training row's class.

    Returns
    -------
    array (classes,)
        Scaled by a power of two to a largest one from 1/2 to 1.

    Raises
    ------
    TypeError, ValueError
        For anything else, unknown labels, weights that are negative or not finite, and zeros only.
    """
    if isinstance(value, str):
        if value != BALANCED:
            raise ValueError(
                f"class_weight: expected {BALANCED!r}, a mapping from labels to weights, or a "
                f"weight for each class; got {value!r}"
            )
        counts = np.bincount(indices, minlength=len(classes))
        # A class without rows has none that its weight could be that of.
        weights = np.where(counts > 0, len(indices) / (len(classes) * np.maximum(counts, 1)), 1.0)
    elif isinstance(value, Mapping):
        weights = np.ones(len(classes))
        for label, weight in value.items():
            place = place_of(label, classes)
            finite(f"class_weight[{label!r}]", weight, 0.0)
            weights[place] = weight
    else:
        weights = as_vector(value, classes)
    if not weights.any():
        raise ValueError("class_weight: expected a weight above 0 somewhere; got zeros only")
    _, exponent = math.frexp(weights.max())
    scaled: NDArray[np.float64] = np.ldexp(weights, -exponent)
    return scaled


def place_of(label: Any, classes: Sequence[int]) -> int:
    """Where a label stands among the classes."""
    if not isinstance(label, numbers.Real | np.bool_):
        raise TypeError(f"class_weight: expected labels as keys; got {label!r}")
    places = [i for i, each in enumerate(classes) if each == label]
    if not places:
        ends = f"from {classes[0]} to" if len(classes) > 2 else f"{classes[0]} and"
        raise ValueError(f"class_weight: expected labels {ends} {classes[-1]}; got {label!r}")
    return places[0]


def as_vector(value: Any, classes: Sequence[int]) -> NDArray[np.float64]:
    """Weights that are given in the order of the classes."""
    array = real_array("class_weight", value)
    if array.shape != (len(classes),):
        raise ValueError(
            f"class_weight: expected a weight for each class, shape ({len(classes)},); "
            f"got shape {array.shape}"
        )
    weights = array.astype(np.float64)
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(
            f"class_weight: expected finite numbers of at least 0; got {array[i]} for the class "
            f"{classes[i]}"
        )
    return weights


def weights_of_rows(
    weights: NDArray[np.float64],
    indices: NDArray[np.int64],
    sample_weight: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """The weight of each row: that of its class, times its own.

    Parameters
    ----------
    weights : array (classes,)
    indices : array (rows,)
        The place of each row's class.
    sample_weight : array (rows,) or None
        In float64, so that the product is rounded to the model's precision once.

    Returns
    -------
    array (rows,)

    Raises
    ------
    ValueError
        If no row has a weight above 0.
    """
    product = weights[indices]
    if sample_weight is not None:
        product *= sample_weight
    if not product.any():
        times = "" if sample_weight is None else " times sample_weight"
        raise ValueError(
            f"class_weight: expected a weight above 0 for a training row; got zeros only{times}"
        )
    return product
