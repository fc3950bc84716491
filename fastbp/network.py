"""The specification of a network: frozen, without arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fastbp.activations import Activation
from fastbp.layers import Dense, Layer, ParameterSpec, checked_layers, layers_from
from fastbp.registry import positive_integer

__all__ = ["Network", "mlp"]


@dataclass(frozen=True, init=False)
class Network:
    """A feed-forward network: a number of inputs and a sequence of layers.

    Parameters
    ----------
    inputs : int
        Features a row, at least 1.
    layers : sequence of Layer
        At least one, and at least one with parameters.

    Raises
    ------
    TypeError, ValueError
        For inputs that are not an integer above 0, for no layers, for anything that is no layer,
        for layers without parameters, for a size that a layer cannot have.
    """

    inputs: int
    layers: tuple[Layer, ...]

    def __init__(self, inputs: int, layers: Sequence[Layer]) -> None:
        object.__setattr__(self, "inputs", positive_integer("inputs", inputs))
        object.__setattr__(self, "layers", checked_layers(layers))
        _ = self.sizes  # a layer may refuse the size that it gets

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values a row has before the first layer and after each layer."""
        sizes = [self.inputs]
        for layer in self.layers:
            sizes.append(layer.output_size(sizes[-1]))
        return tuple(sizes)

    @property
    def outputs(self) -> int:
        """Outputs a row."""
        return self.sizes[-1]

    def parameters(self) -> Iterator[tuple[str, ParameterSpec]]:
        """Every parameter tensor as (``"0.weight"``, specification), in storage order."""
        for i, (layer, inputs) in enumerate(zip(self.layers, self.sizes, strict=False)):
            for specification in layer.parameters(inputs):
                yield f"{i}.{specification.name}", specification

    def members(self) -> Iterator[tuple[str, Layer, int]]:
        """Every layer that is made of no others: ``"2.0"`` in ``"2"``, the layer, its inputs."""
        for i, (layer, inputs) in enumerate(zip(self.layers, self.sizes, strict=False)):
            for name, member, size in layer.members(inputs):
                yield f"{i}.{name}" if name else str(i), member, size

    @property
    def widths(self) -> tuple[int, ...]:
        """Values a row has after every layer, those inside others included."""
        return tuple(layer.output_size(inputs) for _, layer, inputs in self.members())

    @property
    def runs_fused(self) -> bool:
        """Whether a GPU can leave the rows of a block in shared memory through all layers."""
        return all(layer.runs_fused for layer in self.layers)

    def views(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The parameter tensors as views of a flat vector, by name."""
        found, start = {}, 0
        for name, specification in self.parameters():
            end = start + specification.size
            found[name] = flat[start:end].reshape(specification.shape)
            start = end
        return found

    @property
    def parameter_count(self) -> int:
        """How many numbers training changes."""
        return sum(specification.size for _, specification in self.parameters())

    def __str__(self) -> str:
        return f"{self.inputs} -> " + " -> ".join(layer.label() for layer in self.layers)

    def describe(self) -> dict[str, Any]:
        """The network as plain data, for files."""
        return {"inputs": self.inputs, "layers": [layer.describe() for layer in self.layers]}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Network:
        """The inverse of `describe`."""
        return cls(description["inputs"], layers_from(description["layers"]))


def mlp(
    inputs: int,
    *sizes: int,
    activation: str | Activation = "relu",
    output_activation: str | Activation = "identity",
    initializer: str | None = None,
) -> Network:
    """A multilayer perceptron: dense layers, the last one linear.

    ``mlp(8, 64, 64, 1, activation="tanh")`` has 8 inputs, two hidden layers of 64 and one output.

    Parameters
    ----------
    inputs : int
        Features a row.
    *sizes : int
        Units of each layer; the last is the number of outputs.
    activation, output_activation : str or Activation
        Of the hidden layers and of the last one.
    initializer : str, optional
        Initial values of all weights; by default those that suit each activation.

    Returns
    -------
    Network

    Raises
    ------
    TypeError, ValueError
        For sizes that are not integers above 0, for no sizes, for unknown names.
    """
    if not sizes:
        raise ValueError("sizes: expected the units of at least one layer; got none")
    hidden = [Dense(units, activation, initializer) for units in sizes[:-1]]
    return Network(inputs, [*hidden, Dense(sizes[-1], output_activation, initializer)])
