"""Standardisation that a model carries with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.arrays import as_inputs, as_targets, finite_array
from fastbp.losses import Loss

__all__ = ["Scaling", "prepare_inputs", "prepare_targets"]

Vector = NDArray[np.float64]


def mean_and_scale(array: NDArray[Any], weights: NDArray[Any] | None) -> tuple[Vector, Vector]:
    """Weighted mean and standard deviation of each column; a constant column has scale 1.

    Columns are brought to a largest magnitude of 1 first, so that no square leaves the range of
    float64. A column is constant when it varies by no more than its own rounding.
    """
    wide = np.asarray(array, dtype=np.float64)
    largest = np.abs(wide).max(axis=0)
    unit = np.where(largest > 0, largest, 1.0)
    near = wide / unit
    mean = np.average(near, axis=0, weights=weights)
    scale = np.sqrt(np.average((near - mean) ** 2, axis=0, weights=weights))
    constant = np.ptp(near, axis=0) <= 4 * np.finfo(np.float64).eps
    scale = scale * unit
    constant |= scale == 0  # rows of weight zero may be all that varies
    return mean * unit, np.where(constant, 1.0, scale)


@dataclass(frozen=True, eq=False)
class Scaling:
    """Mean and scale of inputs, and of regression targets.

    The network sees ``(x - input_mean) / input_scale``; its outputs o stand for
    ``o * target_scale + target_mean``. All float64; the arithmetic is done in float64 and then
    rounded to the network's precision, so columns with a large mean keep their digits.
    """

    input_mean: Vector
    input_scale: Vector
    target_mean: Vector | None = None
    target_scale: Vector | None = None

    @classmethod
    def fit(
        cls, inputs: NDArray[Any], targets: NDArray[Any] | None, weights: NDArray[Any] | None
    ) -> Scaling:
        """The scaling that gives mean 0 and standard deviation 1, weighted by `weights`.

        Parameters
        ----------
        inputs : array (rows, features)
        targets : array (rows, outputs) or None
            None for losses whose targets have no units (classes, counts, signs).
        weights : array (rows,) or None
        """
        input_mean, input_scale = mean_and_scale(inputs, weights)
        if targets is None:
            return cls(input_mean, input_scale)
        return cls(input_mean, input_scale, *mean_and_scale(targets, weights))

    def inputs(self, array: NDArray[Any], dtype: Any) -> NDArray[Any]:
        """Inputs as the network sees them."""
        return np.ascontiguousarray((array - self.input_mean) / self.input_scale, dtype=dtype)

    def targets(self, array: NDArray[Any], dtype: Any) -> NDArray[Any]:
        """Targets as the network's outputs stand for them."""
        if self.target_mean is None or self.target_scale is None:
            return np.ascontiguousarray(array, dtype=dtype)
        return np.ascontiguousarray((array - self.target_mean) / self.target_scale, dtype=dtype)

    def outputs(self, array: NDArray[Any]) -> NDArray[Any]:
        """The network's outputs in the target's units, in place."""
        if self.target_mean is not None and self.target_scale is not None:
            array[...] = array * self.target_scale + self.target_mean
        return array


def prepare_inputs(
    value: Any, features: int, dtype: Any, scaling: Scaling | None, argument: str = "X"
) -> NDArray[Any]:
    """Checked inputs as the network sees them."""
    if scaling is None:
        return as_inputs(value, features, dtype, argument)
    wide = as_inputs(value, features, np.float64, argument)
    return finite_array(argument, scaling.inputs(wide, dtype), dtype)


def prepare_targets(
    value: Any,
    loss: Loss,
    rows: int,
    outputs: int,
    dtype: Any,
    scaling: Scaling | None,
    argument: str = "y",
) -> NDArray[Any]:
    """Checked targets as the network's outputs stand for them."""
    if scaling is None or loss.targets != "real" or scaling.target_mean is None:
        return as_targets(value, loss, rows, outputs, dtype, argument)
    wide = as_targets(value, loss, rows, outputs, np.float64, argument)
    return finite_array(argument, scaling.targets(wide, dtype), dtype)
