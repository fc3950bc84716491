"""What a layer is: a frozen specification that answers a handful of questions.

A layer kind is one file in this folder: shapes, parameters with their initial values, and the steps
that it contributes to a plan. It knows no arrays and no backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from fastbp.registry import Named

__all__ = [
    "Layer",
    "ParameterSpec",
    "Place",
    "PlanTables",
    "checked_layers",
    "layers_from",
    "places_of",
]


class PlanTables(Protocol):
    """What a layer may ask of the plan that is being built."""

    in_lanes: bool  # whether rows of the batch lie in lanes: a column of a matrix is a row
    trains: bool  # whether the plan's purpose is to train
    has_gradients: bool  # whether it works out gradients of parameters
    has_backward: bool  # whether backward steps follow, of whatever they find the gradient

    def add_rows(self, name: str, slab: str, columns: int) -> str:
        """Add a matrix with a row for each row of a segment; return its name."""

    def by_inputs(self, weight: str) -> str:
        """The name of a weight as (inputs, units), which updates keep up to date."""

    def by_units(self, weight: str) -> str:
        """The name of a weight as (units, inputs), which updates keep up to date."""

    def add_vector(self, name: str, slab: str, length: int, kind: str) -> str:
        """Add a matrix of one row; return its name."""

    def add_values(self, name: str, values: Sequence[float], kind: str = "real") -> str:
        """Add a vector of constants; return its name."""

    segment_rows: int  # rows that a matrix of rows holds

    def mask_keys(self) -> str:
        """The name of the tensor of the keys of an epoch's masks."""

    def next_mask(self) -> int:
        """A number that no other mask of the plan has."""

    def absent(self) -> str:
        """The name of the tensor that is not there."""

    def add_step(
        self, kernel: str, tensors: Sequence[str], sizes: Sequence[int], law: Any = None
    ) -> None:
        """Add a step of the propagation pass; a law's settings become its last tensor."""

    def add_gradient(self, kind: str, parameter: str, inputs: str | None, delta: str) -> None:
        """Say of what a parameter's gradient is made: ``inputs.T @ delta``, or delta's sums.

        The kernels are ``{kind}_step``, ``{kind}_weight_gradient`` and ``{kind}_bias_gradient``;
        for rows in lanes the last two, with ``_in_lanes``.
        """

    def add_constraint(self, weight: str, largest_norm: float) -> None:
        """Hold the weights of each unit to a largest norm, after every update."""

    def is_turned(self, weight: str) -> bool:
        """Whether a weight lies as (units, inputs), so that its gradient does too."""

    def is_thin(self, weight: str) -> bool:
        """Whether the layer's outputs are sums along its inputs, of a weight that is turned."""


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter tensor of a layer.

    Attributes
    ----------
    name : str
        ``"weight"`` or ``"bias"``; in a network it becomes ``"3.weight"``.
    shape : tuple of int
        As users see it: (inputs, units) for a weight, (units,) for a bias.
    initializer : str
        Name of the initial values.
    is_weight : bool
        Whether penalties and weight decay apply.
    """

    name: str
    shape: tuple[int, ...]
    initializer: str
    is_weight: bool

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """The shape in a slab, where a vector is one row."""
        return (self.shape[0], self.shape[1]) if len(self.shape) == 2 else (1, self.shape[0])

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        rows, columns = self.matrix_shape
        return rows * columns


@dataclass(frozen=True)
class Place:
    """Where a layer stands in a plan.

    Attributes
    ----------
    name : str
        ``"2"``, or ``"2.0"`` for the first layer inside layer 2. Its parameters and tensors begin
        with it: ``"2.weight"``, ``"2.output"``, ``"2.delta"``.
    inputs, units : int
        Values a row has before and after it.
    source : str
        The tensor that it reads.
    before : str or None
        The tensor to which its backward steps carry the delta; None where nobody wants it.
    replaces : bool
        Whether they fill that tensor. Otherwise it holds a derivative, which they multiply by what
        they carry.
    """

    name: str
    inputs: int
    units: int
    source: str
    before: str | None
    replaces: bool

    @property
    def output(self) -> str:
        """The tensor of the layer's outputs."""
        return f"{self.name}.output"

    @property
    def delta(self) -> str:
        """The tensor of their derivatives, and then of the deltas."""
        return f"{self.name}.delta"


class Layer(Named, ABC):
    """A frozen dataclass below this class, in a file of its own, is a kind of layer."""

    family: ClassVar[str] = "layer"
    runs_in_lanes: ClassVar[bool] = False  # whether there are kernels for rows in lanes
    runs_fused: ClassVar[bool] = False  # whether a GPU can leave its rows in shared memory
    has_parameters: ClassVar[bool] = True  # a layer without any may be one that never acts

    @abstractmethod
    def output_size(self, inputs: int) -> int:
        """How many outputs a row has, for so many inputs."""

    @abstractmethod
    def parameters(self, inputs: int) -> tuple[ParameterSpec, ...]:
        """The parameter tensors, in the order in which they lie in `Model.parameters`."""

    def acts(self, trains: bool) -> bool:
        """Whether plans have it at all: some layers do something in training alone."""
        return True

    def members(self, inputs: int) -> Iterator[tuple[str, Layer, int]]:
        """The layers that it is made of: name, layer, inputs; itself, under no name, if of none."""
        yield "", self, inputs

    @abstractmethod
    def add_forward(self, builder: PlanTables, place: Place, *, derivative: bool) -> None:
        """Add the tensors and steps that compute the layer's outputs.

        With `derivative`, the derivative of the outputs by what the backward steps see is left in
        the layer's delta tensor.
        """

    @abstractmethod
    def add_backward(self, builder: PlanTables, place: Place) -> None:
        """Add the steps that carry the layer's delta to `place.before`."""

    @abstractmethod
    def add_gradients(self, builder: PlanTables, place: Place) -> None:
        """Add the steps that compute the gradients of the layer's parameters."""

    @abstractmethod
    def label(self) -> str:
        """A few words for tables."""

    def describe(self) -> dict[str, Any]:
        """Name and settings as plain data; members of other families are described in turn."""
        return {key: described(value) for key, value in super().describe().items()}


def described(value: Any) -> Any:
    """A setting as plain data: members of families by their descriptions, also in a tuple."""
    if isinstance(value, tuple):
        return [described(member) for member in value]
    return value.describe() if isinstance(value, Named) else value


def checked_layers(layers: Any) -> tuple[Layer, ...]:
    """The layers of a sequence, which has to have parameters.

    Raises
    ------
    TypeError
        For anything that is no sequence of layers.
    ValueError
        For no layers, and for layers none of which has a parameter.
    """
    if isinstance(layers, Layer):
        raise TypeError("layers: expected a sequence of layers; got one layer, not in a list")
    try:
        members = tuple(layers)
    except TypeError:
        kind = type(layers).__name__
        raise TypeError(f"layers: expected a sequence of layers; got {kind}") from None
    if not members:
        raise ValueError("layers: expected at least one layer; got none")
    for i, layer in enumerate(members):
        if not isinstance(layer, Layer):
            raise TypeError(
                f"layers[{i}]: expected a fastbp layer, as Dense; got {type(layer).__name__}"
            )
    if not any(layer.has_parameters for layer in members):
        labels = ", ".join(layer.label() for layer in members)
        raise ValueError(f"layers: expected one with parameters, as Dense; got {labels}")
    return members


def layers_from(descriptions: Sequence[dict[str, Any]]) -> list[Layer]:
    """The layers that `Layer.describe` described.

    Raises
    ------
    ValueError
        For a kind that is not registered.
    """
    layers = []
    for description in descriptions:
        kind = Layer.registry.get(description["name"])
        if kind is None:
            raise ValueError(f"layer: {description['name']!r} is not registered")
        layers.append(kind.from_description(description))
    return layers


def places_of(
    layers: Sequence[Layer],
    inputs: int,
    source: str,
    before: str | None,
    *,
    trains: bool,
    prefix: str = "",
) -> list[tuple[Layer, Place]]:
    """The layers of a sequence that act, and where each stands.

    Parameters
    ----------
    layers : sequence of Layer
    inputs : int
        Values a row has before the first.
    source, before : str, str or None
        Of the first one, as a `Place` has them; `before` is filled.
    trains : bool
        Whether the plan's purpose is to train.
    prefix : str
        What names begin with.
    """
    found = []
    replaces = True
    for i, layer in enumerate(layers):
        units = layer.output_size(inputs)
        if layer.acts(trains):
            place = Place(f"{prefix}{i}", inputs, units, source, before, replaces)
            found.append((layer, place))
            if before is not None or layer.has_parameters:  # else nobody wants this one's delta
                before, replaces = place.delta, False
            source = place.output
        inputs = units
    return found
