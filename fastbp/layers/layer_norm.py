"""Layer normalisation."""

from __future__ import annotations

from dataclasses import dataclass

from fastbp.layers.base import Layer, ParameterSpec, Place, PlanTables
from fastbp.registry import finite

__all__ = ["LayerNorm"]


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Every row is shifted and scaled to mean 0 and variance 1, then by what is learned.

    Outputs = gain * (inputs - mean) / sqrt(variance + epsilon) + bias, where mean and variance (of
    the whole, divided by the number of values) are those of the values of a row. Gains start at
    one, biases at zero; penalties and weight decay leave both alone.

    Parameters
    ----------
    epsilon : float
        Above 0; it keeps rows of equal values finite.

    Raises
    ------
    TypeError, ValueError
        For an epsilon that is no finite number above 0.

    Source: Ba, Kiros and Hinton, Layer normalization, 2016.
    """

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        finite("epsilon", self.epsilon, 0.0, open_low=True)
        object.__setattr__(self, "epsilon", float(self.epsilon))

    def output_size(self, inputs: int) -> int:
        return inputs

    def parameters(self, inputs: int) -> tuple[ParameterSpec, ...]:
        return (
            ParameterSpec("gain", (inputs,), "ones", is_weight=False),
            ParameterSpec("bias", (inputs,), "zeros", is_weight=False),
        )

    def label(self) -> str:
        return "LayerNorm()" if self == LayerNorm() else f"LayerNorm({self.epsilon:g})"

    def add_forward(self, builder: PlanTables, place: Place, *, derivative: bool) -> None:
        none, kept = builder.absent(), builder.has_backward
        name, units = place.name, place.units
        tensors = [
            builder.add_rows(place.output, "activations", units),
            builder.add_rows(place.delta, "deltas", units) if derivative else none,
            builder.add_rows(f"{name}.normalized", "activations", units) if kept else none,
            builder.add_vector(f"{name}.scale", "rows", builder.segment_rows, "real")
            if kept
            else none,
            place.source,
            f"{name}.gain",
            f"{name}.bias",
            builder.add_values(f"{name}.settings", (self.epsilon,)),
        ]
        builder.add_step("layer_norm_forward", tensors, [units])

    def add_backward(self, builder: PlanTables, place: Place) -> None:
        name, units = place.name, place.units
        if place.before is None and not builder.has_gradients:
            return
        tensors = [
            place.before or builder.absent(),
            builder.add_rows(f"{name}.gain_delta", "deltas", units)
            if builder.has_gradients
            else builder.absent(),
            place.delta,
            f"{name}.normalized",
            f"{name}.scale",
            f"{name}.gain",
        ]
        builder.add_step("layer_norm_backward", tensors, [units, int(place.replaces)])

    def add_gradients(self, builder: PlanTables, place: Place) -> None:
        builder.add_gradient("dense", f"{place.name}.gain", None, f"{place.name}.gain_delta")
        builder.add_gradient("dense", f"{place.name}.bias", None, place.delta)
