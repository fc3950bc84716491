"""Dropout."""

from __future__ import annotations

from dataclasses import dataclass

from fastbp.layers.base import Layer, ParameterSpec, Place, PlanTables
from fastbp.masks import threshold_of
from fastbp.registry import finite

__all__ = ["Dropout"]


@dataclass(frozen=True)
class Dropout(Layer):
    """In training, each value is dropped (set to zero) with a probability, the others scaled up.

    Outputs = inputs * m / (1 - rate), where m is 0 with the probability `rate` and 1 otherwise.
    Everywhere else (predictions, losses, validation, derivatives) the layer does nothing: the
    scaling keeps the expected value. Which values are dropped follows from the seed of the
    training, the epoch, the layer, the row's place in the epoch and the column, and so depends
    neither on threads nor on the device.

    Parameters
    ----------
    rate : float
        Share of the values that is dropped, at least 0 and below 1.

    Raises
    ------
    TypeError, ValueError
        For a rate that is no number in that interval.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, Dropout: a simple way to
    prevent neural networks from overfitting, 2014 (scaled up in training, not down afterwards).
    """

    has_parameters = False

    rate: float

    def __post_init__(self) -> None:
        finite("rate", self.rate, 0.0, 1.0, open_high=True)
        object.__setattr__(self, "rate", float(self.rate))

    def output_size(self, inputs: int) -> int:
        return inputs

    def parameters(self, inputs: int) -> tuple[ParameterSpec, ...]:
        return ()

    def acts(self, trains: bool) -> bool:
        return trains and self.rate > 0.0

    def label(self) -> str:
        return f"Dropout({self.rate:g})"

    def add_forward(self, builder: PlanTables, place: Place, *, derivative: bool) -> None:
        tensors = [
            builder.add_rows(place.output, "activations", place.units),
            builder.add_rows(place.delta, "deltas", place.units),
            place.source,
            builder.mask_keys(),
            "batch",
            builder.add_values(f"{place.name}.settings", (1.0 / (1.0 - self.rate),)),
        ]
        sizes = [place.units, builder.next_mask(), threshold_of(self.rate)]
        builder.add_step("dropout_forward", tensors, sizes)

    def add_backward(self, builder: PlanTables, place: Place) -> None:
        if place.before is not None:
            tensors = [place.before, place.delta]
            builder.add_step("multiply_delta", tensors, [place.units, int(place.replaces)])

    def add_gradients(self, builder: PlanTables, place: Place) -> None:
        pass
