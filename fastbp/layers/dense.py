"""The dense (fully connected) layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastbp.activations import Activation
from fastbp.initializers import resolve_initializer
from fastbp.layers.base import Layer, ParameterSpec, PlanTables
from fastbp.registry import positive_integer

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

    Raises
    ------
    TypeError, ValueError
        For units that are not an integer above 0 and for unknown names.
    """

    runs_in_lanes = True

    units: int
    activation: Activation
    initializer: str

    def __init__(
        self,
        units: int,
        activation: str | Activation = "identity",
        initializer: str | None = None,
    ) -> None:
        resolved = Activation.resolve(activation, "activation")
        object.__setattr__(self, "units", positive_integer("units", units))
        object.__setattr__(self, "activation", resolved)
        name = resolved.initializer if initializer is None else initializer
        object.__setattr__(self, "initializer", resolve_initializer(name))

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

    def add_forward(self, builder: PlanTables, index: int, *, derivative: bool) -> None:
        inputs, units = builder.sizes(index)
        weight = f"{index}.weight"
        thin = builder.is_thin(weight)
        as_it_lies = thin or builder.in_lanes
        tensors = [
            builder.add_rows(f"{index}.output", "activations", units),
            builder.add_rows(f"{index}.delta", "deltas", units) if derivative else builder.absent(),
            builder.input_name(index),
            weight if as_it_lies else builder.by_inputs(weight),
            f"{index}.bias",
        ]
        sizes = [inputs, units, int(thin)]
        if builder.in_lanes:
            sizes = [int(builder.is_turned(weight))]
        builder.add_step("dense_forward", tensors, sizes, law=self.activation)

    def add_backward(self, builder: PlanTables, index: int, *, inputs_too: bool) -> None:
        inputs, units = builder.sizes(index)
        if index == 0 and not inputs_too:
            return
        # The delta of the layer before holds its derivative until this step multiplies into it.
        before = f"{index - 1}.delta"
        if index == 0:
            before = builder.add_rows("inputs.gradient", "deltas", inputs)
        weight = f"{index}.weight"
        if builder.in_lanes:
            tensors, sizes = [before, f"{index}.delta", weight], [int(builder.is_turned(weight))]
        else:
            tensors = [before, f"{index}.delta", builder.by_units(weight)]
            sizes = [inputs, units, int(index == 0)]
        builder.add_step("dense_backward_data", tensors, sizes)

    def add_gradients(self, builder: PlanTables, index: int) -> None:
        weight, delta = f"{index}.weight", f"{index}.delta"
        # The gradient of (inputs, units) is inputs.T @ delta, that of (units, inputs) the reverse.
        factors = [builder.input_name(index), delta]
        if builder.is_turned(weight):
            factors.reverse()
        builder.add_gradient("dense", weight, *factors)
        builder.add_gradient("dense", f"{index}.bias", None, delta)
