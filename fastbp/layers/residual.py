"""Residual blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastbp.layers.base import (
    Layer,
    ParameterSpec,
    Place,
    PlanTables,
    checked_layers,
    layers_from,
    places_of,
)

__all__ = ["Residual"]


@dataclass(frozen=True, init=False)
class Residual(Layer):
    """Outputs = inputs + f(inputs), f being a sequence of layers.

    Parameters
    ----------
    layers : sequence of Layer
        The last one has as many outputs as the first has inputs. Any kind, other blocks included;
        at least one has parameters.

    Raises
    ------
    TypeError, ValueError
        For no layers, for anything that is no layer, for layers without parameters; where a network
        is built with it, for a last layer of another size than the inputs.

    Source: He, Zhang, Ren and Sun, Identity mappings in deep residual networks, 2016.
    """

    layers: tuple[Layer, ...]

    def __init__(self, layers: Sequence[Layer]) -> None:
        object.__setattr__(self, "layers", checked_layers(layers))

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Residual:
        """The inverse of `describe`."""
        return cls(layers_from(description["layers"]))

    def output_size(self, inputs: int) -> int:
        sizes = [inputs]
        for layer in self.layers:
            sizes.append(layer.output_size(sizes[-1]))
        if sizes[-1] != inputs:
            raise ValueError(
                f"layers: expected a Residual of {inputs} inputs to end with {inputs} outputs; "
                f"got sizes {' -> '.join(map(str, sizes))}"
            )
        return inputs

    def parameters(self, inputs: int) -> tuple[ParameterSpec, ...]:
        found = []
        for i, layer in enumerate(self.layers):
            found += [replace(p, name=f"{i}.{p.name}") for p in layer.parameters(inputs)]
            inputs = layer.output_size(inputs)
        return tuple(found)

    def members(self, inputs: int) -> Iterator[tuple[str, Layer, int]]:
        for i, layer in enumerate(self.layers):
            for name, member, size in layer.members(inputs):
                yield f"{i}.{name}" if name else str(i), member, size
            inputs = layer.output_size(inputs)

    def label(self) -> str:
        return f"Residual({' -> '.join(layer.label() for layer in self.layers)})"

    def places(self, builder: PlanTables, place: Place) -> list[tuple[Layer, Place]]:
        """The layers inside that act, and where each stands; the first one's delta has a tensor."""
        branch = None if place.before is None else f"{place.name}.branch"
        return places_of(
            self.layers,
            place.inputs,
            place.source,
            branch,
            trains=builder.trains,
            prefix=f"{place.name}.",
        )

    def add_forward(self, builder: PlanTables, place: Place, *, derivative: bool) -> None:
        inside = self.places(builder, place)
        for layer, within in inside:
            layer.add_forward(builder, within, derivative=builder.has_backward)
        tensors = [
            builder.add_rows(place.output, "activations", place.units),
            builder.add_rows(place.delta, "deltas", place.units)
            if derivative
            else builder.absent(),
            place.source,
            inside[-1][1].output,
        ]
        builder.add_step("residual_forward", tensors, [place.units])

    def add_backward(self, builder: PlanTables, place: Place) -> None:
        inside = self.places(builder, place)
        # The delta goes both ways: here through the layers, and past them below.
        builder.add_step("multiply_delta", [inside[-1][1].delta, place.delta], [place.units, 0])
        if place.before is not None:
            builder.add_rows(f"{place.name}.branch", "deltas", place.inputs)
        for layer, within in reversed(inside):
            layer.add_backward(builder, within)
        if place.before is not None:
            tensors = [place.before, place.delta, f"{place.name}.branch"]
            builder.add_step("residual_backward", tensors, [place.units, int(place.replaces)])

    def add_gradients(self, builder: PlanTables, place: Place) -> None:
        for layer, within in self.places(builder, place):
            layer.add_gradients(builder, within)
