"""The dense (fully connected) layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastbp.activations import Activation
from fastbp.initializers import resolve_initializer
from fastbp.layers.base import Layer, ParameterSpec, Place, PlanTables
from fastbp.registry import finite, positive_integer

__all__ = ["Dense"]


@dataclass(frozen=True, init=False)
class Dense(Layer):
    """Outputs = activation(inputs @ weight + bias).

    Parameters
    ----------
    units : int
        Outputs a row, at least 1.
    activation : str or Activation
        By name or as an object with settings (``fb.LeakyRelu(0.2)``).
    initializer : str, optional
        Initial values of the weight (inputs, units); by default those that suit the activation.
        Biases start at zero.
    max_norm : float, optional
        Above 0: after every step of training the weights of each unit, a column of (inputs, units),
        are scaled down to this Euclidean norm where theirs is larger. Source: Srivastava, Hinton,
        Krizhevsky, Sutskever and Salakhutdinov, Dropout: a simple way to prevent neural networks
        from overfitting, 2014.

    Raises
    ------
    TypeError, ValueError
        For units that are not an integer above 0, for unknown names, and for a norm that is not a
        finite number above 0.
    """

    runs_in_lanes = True
    runs_fused = True

    units: int
    activation: Activation
    initializer: str
    max_norm: float | None

    def __init__(
        self,
        units: int,
        activation: str | Activation = "identity",
        initializer: str | None = None,
        max_norm: float | None = None,
    ) -> None:
        resolved = Activation.resolve(activation, "activation")
        object.__setattr__(self, "units", positive_integer("units", units))
        object.__setattr__(self, "activation", resolved)
        name = resolved.initializer if initializer is None else initializer
        object.__setattr__(self, "initializer", resolve_initializer(name))
        if max_norm is not None:
            finite("max_norm", max_norm, 0.0, open_low=True)
            max_norm = float(max_norm)
        object.__setattr__(self, "max_norm", max_norm)

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Dense:
        """The inverse of `describe`."""
        settings = {key: value for key, value in description.items() if key != "name"}
        settings["activation"] = Activation.from_description(settings["activation"])
        return cls(**settings)

    def output_size(self, inputs: int) -> int:
        return self.units

    def parameters(self, inputs: int) -> tuple[ParameterSpec, ...]:
        return (
            ParameterSpec("weight", (inputs, self.units), self.initializer, is_weight=True),
            ParameterSpec("bias", (self.units,), "zeros", is_weight=False),
        )

    def label(self) -> str:
        return f"Dense({self.units}, {self.activation.name})"

    def add_forward(self, builder: PlanTables, place: Place, *, derivative: bool) -> None:
        weight = f"{place.name}.weight"
        thin = builder.is_thin(weight)
        as_it_lies = thin or builder.in_lanes
        tensors = [
            builder.add_rows(place.output, "activations", place.units),
            builder.add_rows(place.delta, "deltas", place.units)
            if derivative
            else builder.absent(),
            place.source,
            weight if as_it_lies else builder.by_inputs(weight),
            f"{place.name}.bias",
        ]
        sizes = [place.inputs, place.units, int(thin)]
        if builder.in_lanes:
            sizes = [int(builder.is_turned(weight))]
        builder.add_step("dense_forward", tensors, sizes, law=self.activation)

    def add_backward(self, builder: PlanTables, place: Place) -> None:
        if place.before is None:
            return
        weight = f"{place.name}.weight"
        if builder.in_lanes:
            tensors, sizes = [place.before, place.delta, weight], [int(builder.is_turned(weight))]
        else:
            tensors = [place.before, place.delta, builder.by_units(weight)]
            sizes = [place.inputs, place.units, int(place.replaces)]
        builder.add_step("dense_backward_data", tensors, sizes)

    def add_gradients(self, builder: PlanTables, place: Place) -> None:
        weight = f"{place.name}.weight"
        # The gradient of (inputs, units) is inputs.T @ delta, that of (units, inputs) the reverse.
        factors = [place.source, place.delta]
        if builder.is_turned(weight):
            factors.reverse()
        builder.add_gradient("dense", weight, *factors)
        if self.max_norm is not None:
            builder.add_constraint(weight, self.max_norm)
        builder.add_gradient("dense", f"{place.name}.bias", None, place.delta)
