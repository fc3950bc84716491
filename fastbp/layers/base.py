"""What a layer is: a frozen specification that answers a handful of questions.

A layer kind is one file in this folder: shapes, parameters with their initial values, and the steps
that it contributes to a plan. It knows no arrays and no backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from fastbp.registry import Named

__all__ = ["Layer", "ParameterSpec", "PlanTables"]


class PlanTables(Protocol):
    """What a layer may ask of the plan that is being built."""

    def sizes(self, index: int) -> tuple[int, int]:
        """Inputs and outputs of a layer."""

    def input_name(self, index: int) -> str:
        """The tensor that a layer reads."""

    def add_rows(self, name: str, slab: str, columns: int) -> str:
        """Add a matrix with a row for each row of a segment; return its name."""

    def by_inputs(self, weight: str) -> str:
        """The name of a weight as (inputs, units), which updates keep up to date."""

    def by_units(self, weight: str) -> str:
        """The name of a weight as (units, inputs), which updates keep up to date."""

    in_lanes: bool  # whether rows of the batch lie in lanes: a column of a matrix is a row

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


class Layer(Named, ABC):
    """A frozen dataclass below this class, in a file of its own, is a kind of layer."""

    family: ClassVar[str] = "layer"
    runs_in_lanes: ClassVar[bool] = False  # whether there are kernels for rows in lanes

    @abstractmethod
    def output_size(self, inputs: int) -> int:
        """How many outputs a row has, for so many inputs."""

    @abstractmethod
    def parameters(self, inputs: int) -> tuple[ParameterSpec, ...]:
        """The parameter tensors, in the order in which they lie in `Model.parameters`."""

    @abstractmethod
    def add_forward(self, builder: PlanTables, index: int, *, derivative: bool) -> None:
        """Add the tensors and steps that compute the outputs of layer `index`.

        With `derivative`, the derivative of the outputs by what the backward steps see is left in
        the layer's delta tensor.
        """

    @abstractmethod
    def add_backward(self, builder: PlanTables, index: int, *, inputs_too: bool) -> None:
        """Add the steps that carry the layer's delta to the layer before, or to the inputs."""

    @abstractmethod
    def add_gradients(self, builder: PlanTables, index: int) -> None:
        """Add the steps that compute the gradients of the layer's parameters."""

    @abstractmethod
    def label(self) -> str:
        """A few words for tables."""

    def describe(self) -> dict[str, Any]:
        """Name and settings as plain data; members of other families are described in turn."""
        described = super().describe()
        return {
            key: value.describe() if isinstance(value, Named) else value
            for key, value in described.items()
        }
