"""The arrays of a training run: checked, split, standardised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.arrays import as_inputs, as_targets, as_weights, finite_array
from fastbp.backends.choose import host_array
from fastbp.class_weights import class_indices, resolve_class_weights, weights_of_rows
from fastbp.initializers import keyed_generator
from fastbp.losses import Loss
from fastbp.model import Model
from fastbp.registry import finite
from fastbp.scaling import Scaling, prepare_inputs, prepare_targets

__all__ = ["Data", "prepare_data", "split_rows"]

SPLIT_STREAM = 2**63  # of the generator: apart from those of the initial values, which count up


@dataclass(frozen=True)
class Data:
    """Checked arrays as the network sees them, and what they were made from without any change."""

    inputs: NDArray[Any]
    targets: NDArray[Any]
    weights: NDArray[Any] | None
    sources: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows."""
        return int(self.inputs.shape[0])


def split_rows(
    rows: int, fraction: float, seed: int, argument: str = "validation"
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Row numbers that stay and row numbers that are held out, each in ascending order."""
    finite(argument, fraction, 0.0, 1.0, open_low=True, open_high=True)
    held_out = round(rows * fraction)
    if not 0 < held_out < rows:
        raise ValueError(
            f"{argument}: expected a fraction that leaves at least one of {rows} rows on either "
            f"side; got {fraction}"
        )
    order = keyed_generator(seed, SPLIT_STREAM).permutation(rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def prepare_data(
    model: Model,
    X: Any,
    y: Any,
    sample_weight: Any,
    validation: Any,
    standardize: bool,
    loss: Loss,
    seed: int,
    class_weight: Any = None,
) -> tuple[Data, Data | None, Scaling | None]:
    """Check all arrays, hold out the validation part, weigh and fit the scaling on the rest."""
    features, outputs, dtype = model.network.inputs, model.network.outputs, model.dtype
    if loss.targets == "class" and outputs < 2:
        raise ValueError(f"loss: {loss.name} needs a network with at least 2 outputs; got 1")
    if not isinstance(standardize, bool):
        raise TypeError(f"standardize: expected True or False; got {type(standardize).__name__}")
    sources = {"inputs": X, "targets": y}
    X, y, sample_weight = host_array(X), host_array(y), host_array(sample_weight)
    # With scaling the raw numbers are taken in float64 and rounded once, after the scaling.
    raw_dtype = np.float64 if standardize or model.scaling is not None else dtype
    inputs = as_inputs(X, features, raw_dtype)
    targets = all_targets = as_targets(y, loss, inputs.shape[0], outputs, raw_dtype)
    weights = as_weights(sample_weight, inputs.shape[0], dtype)
    train_rows: Any = slice(None)
    held_out: tuple[Any, Any, Any] | None = None
    held_sources: dict[str, Any] = {}
    if isinstance(validation, tuple | list):
        if len(validation) not in {2, 3}:
            raise ValueError(
                f"validation: expected (X, y) or (X, y, sample_weight); got {len(validation)} items"
            )
        weights_too = validation[2] if len(validation) > 2 else None
        held_sources = {"inputs": validation[0], "targets": validation[1]}
        held_out = (host_array(validation[0]), host_array(validation[1]), host_array(weights_too))
    elif validation is not None:
        finite("validation", validation)
        train_rows, held_rows = split_rows(inputs.shape[0], float(validation), seed)
        held_weights = None if weights is None else weights[held_rows]
        held_out = (inputs[held_rows], targets[held_rows], held_weights)
        inputs, targets = inputs[train_rows], targets[train_rows]
        weights = (
            None if weights is None else as_weights(weights[train_rows], len(train_rows), dtype)
        )
    if class_weight is not None:
        classes, indices = class_indices(all_targets, loss, outputs)
        by_class = resolve_class_weights(host_array(class_weight), classes, indices[train_rows])
        wide = as_weights(sample_weight, len(indices), np.float64)
        wide = None if wide is None else wide[train_rows]
        weights = weights_of_rows(by_class, indices[train_rows], wide)
        weights = as_weights(weights, len(weights), dtype, "class_weight")
    scaling = model.scaling
    if standardize and loss.targets == "real":
        finite_array("y", targets, dtype)  # predictions come back in these units
    if standardize:
        scaling = Scaling.fit(inputs, targets if loss.targets == "real" else None, weights)

    def prepared(X: Any, y: Any, weight: Any, names: tuple[str, str, str]) -> Data:
        ready = prepare_inputs(X, features, dtype, scaling, names[0])
        rows = ready.shape[0]
        target = prepare_targets(y, loss, rows, outputs, dtype, scaling, names[1])
        return Data(ready, target, as_weights(weight, rows, dtype, names[2]))

    training = prepared(inputs, targets, weights, ("X", "y", "sample_weight"))
    is_unchanged = scaling is None and (held_out is None or bool(held_sources))
    if is_unchanged:
        training = replace(training, sources=sources)
    if held_out is None:
        return training, None, scaling
    names = ("validation[0]", "validation[1]", "validation[2]")
    validating = prepared(*held_out, names)
    if is_unchanged:
        validating = replace(validating, sources=held_sources)
    return training, validating, scaling
