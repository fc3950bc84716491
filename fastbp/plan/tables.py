"""The tables of a plan while it is being laid out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastbp.backends.contract import ROWS_OF_A_SUM
from fastbp.layers import places_of
from fastbp.masks import KEYS
from fastbp.network import Network
from fastbp.plan.plan import ITEM_BYTES, Geometry, Step, Tensor

__all__ = ["ORDERED_ROWS", "PlanBuilder"]

# The order of the rows is worked out for at least so many at a time: a vector's worth costs what
# one row costs.
ORDERED_ROWS = 512


class PlanBuilder:
    """Collects the tables of a plan; layers add their own rows to it."""

    def __init__(
        self,
        network: Network,
        dtype: str,
        batch_rows: int,
        geometry: Geometry,
        purpose: str,
        *,
        may_use_lanes: bool = False,
    ) -> None:
        self.network = network
        self.dtype = dtype
        self.batch_rows = batch_rows
        self.geometry = geometry
        self.segment_rows = min(batch_rows, geometry.segment_rows)
        self.line = geometry.alignment // ITEM_BYTES[dtype]
        self.panel = geometry.panel_lines * self.line
        self.specifications = dict(network.parameters())
        self.trains = purpose == "train"
        self.has_gradients = purpose in {"gradient", "train"}
        wants_inputs = purpose in {"input_gradient", "vjp"}
        self.has_backward = self.has_gradients or wants_inputs
        self.masks = 0
        before = "inputs.gradient" if wants_inputs else None
        self.places = places_of(
            network.layers, network.inputs, "inputs", before, trains=self.trains
        )
        self.in_lanes = may_use_lanes and self.gains_from_lanes()
        if self.in_lanes:
            self.segment_rows = min(batch_rows, ROWS_OF_A_SUM)
        self.turned: set[str] = set()
        self.thin: set[str] = set()
        self.tensors: dict[str, Tensor] = {}
        self.kinds: dict[str, str] = {}
        self.lengths: dict[str, int] = {}
        self.values: dict[str, tuple[float, ...]] = {}
        self.propagation: list[Step] = []
        self.gradients: dict[str, tuple[str, str | None, str]] = {}
        self.constraints: dict[str, float] = {}

    # Tensors.

    def add(self, name: str, slab: str, rows: int, columns: int, kind: str = "real") -> str:
        """Lay a matrix at the end of a slab, its columns padded to whole lines."""
        unit = self.geometry.alignment // ITEM_BYTES[self.dtype if kind == "real" else kind]
        offset = self.lengths.get(slab, 0)
        tensor = Tensor(name, slab, rows, columns, -(-columns // unit) * unit, offset)
        self.kinds[slab] = kind
        self.lengths[slab] = offset + tensor.elements
        self.tensors[name] = tensor
        return name

    def add_rows(self, name: str, slab: str, columns: int) -> str:
        """A matrix with a row (or a column, if they lie in lanes) for each row of a segment."""
        if self.in_lanes:
            return self.add(name, slab, columns, self.segment_rows)
        return self.add(name, slab, self.segment_rows, columns)

    def add_vector(self, name: str, slab: str, length: int, kind: str) -> str:
        """A vector: a matrix of one row."""
        return self.add(name, slab, 1, length, kind)

    def add_values(self, name: str, values: Sequence[float], kind: str = "real") -> str:
        """A vector of constants that is filled once."""
        slab = "settings" if kind == "real" else "constants"
        self.values[name] = tuple(values)
        return self.add_vector(name, slab, max(len(values), 1), kind)

    def add_data(self, name: str, columns: int) -> str:
        """A matrix in the caller's arrays, bound before each run."""
        self.tensors[name] = Tensor(name, "data", 0, columns, columns, 0)
        return name

    def mask_keys(self) -> str:
        """The keys of an epoch's masks, which all masks share."""
        if "mask_keys" not in self.tensors:
            self.add_vector("mask_keys", "batch", KEYS, "int64")
        return "mask_keys"

    def next_mask(self) -> int:
        """A number that no other mask of the plan has."""
        self.masks += 1
        return self.masks - 1

    def absent(self) -> str:
        """The name of the tensor that is not there."""
        self.tensors["none"] = Tensor("none", "data", 0, 0, 0, 0)
        return "none"

    def by_inputs(self, weight: str) -> str:
        """A weight as (inputs, units): itself, or a copy that the weight pass keeps up to date."""
        return f"{weight}.transposed" if weight in self.turned else weight

    def by_units(self, weight: str) -> str:
        """A weight as (units, inputs): itself, or a copy that the weight pass keeps up to date."""
        if weight in self.turned:
            return weight
        name = f"{weight}.transposed"
        if name not in self.tensors:
            source = self.tensors[weight]
            self.add(name, "transposed", source.columns, source.rows)
        return name

    def is_weight(self, parameter: str) -> bool:
        """Whether a parameter tensor is a weight; others are one row, and a tile spans panels."""
        return self.specifications[parameter].is_weight

    def is_turned(self, weight: str) -> bool:
        """Whether a weight lies as (units, inputs)."""
        return weight in self.turned

    def is_thin(self, weight: str) -> bool:
        """Whether a layer sums along its inputs; its weight lies as (units, inputs)."""
        return weight in self.thin

    def add_parameters(self) -> None:
        """Lay out the parameters, each weight the way round that suits it; on a grid, as they are.

        The forward pass of a turned layer that is not thin needs its weight as (inputs, units) too.
        That copy lies with the parameters, because plans that share them share it.
        """
        for name, specification in self.network.parameters():
            rows, columns = specification.matrix_shape
            if self.geometry.is_grid:
                self.add(name, "parameters", rows, columns)
                continue
            if specification.is_weight and self.has_thin_sums(rows, columns):
                self.thin.add(name)
            elif not specification.is_weight or not self.has_fewer_lines_turned(rows, columns):
                self.add(name, "parameters", rows, columns)
                continue
            self.turned.add(name)
            self.add(name, "parameters", columns, rows)
            if name not in self.thin:
                self.add(f"{name}.transposed", "parameters", rows, columns)

    def has_fewer_lines_turned(self, inputs: int, units: int) -> bool:
        """Whether gradient and update of a weight are clearly less work as (units, inputs).

        A row of a gradient costs a multiply-add for each of its lines, padding included, and the
        load of the factor that they share.
        """
        return 5 * self.cost(units, inputs) < 4 * self.cost(inputs, units)

    def cost(self, rows: int, columns: int) -> int:
        """What a row of a batch costs in a product with a matrix: multiply-adds and loads."""
        return rows * (-(-columns // self.line) + 1)

    def thin_cost(self, inputs: int, units: int) -> int:
        """The same for sums along the inputs.

        An output takes a multiply-add for each line of inputs and about as much time as three of
        them for adding up its lanes.
        """
        return units * (-(-inputs // self.line) + 3)

    def has_thin_sums(self, inputs: int, units: int) -> bool:
        """Whether sums along the inputs take less time than a padded line of units.

        Padded to a line, all units of a row together take one multiply-add for each input.
        """
        return units <= self.line and self.thin_cost(inputs, units) <= inputs

    def gains_from_lanes(self) -> bool:
        """Whether the rows of a batch should lie in the lanes of the vectors, not the units.

        It takes many rows, because each sum over them ends with a sum over lanes, and layers so
        narrow that padding and few lines a row cost half as much again: a row of a product costs a
        multiply-add for each line of units and a load that they share, if it is not thin.
        """
        enough = 0 < self.geometry.lane_rows <= self.batch_rows
        if not (enough and all(layer.runs_in_lanes for layer in self.network.layers)):
            return False
        now, in_lanes = 0, 0.0
        for specification in self.specifications.values():
            if specification.is_weight:
                inputs, units = specification.matrix_shape
                thin = self.has_thin_sums(inputs, units)
                now += self.thin_cost(inputs, units) if thin else self.cost(inputs, units)
                in_lanes += inputs * units / self.line
        return 2 * now > 3 * in_lanes

    # Steps.

    def add_step(
        self, kernel: str, tensors: Sequence[str], sizes: Sequence[int], law: Any = None
    ) -> None:
        """Add a step of the propagation pass; a law's settings become its last tensor."""
        names = list(tensors)
        if law is not None:
            names.append(self.add_values(f"settings.{len(self.propagation)}", law.settings))
        self.propagation.append(Step(kernel + self.suffix, tuple(names), tuple(sizes), law))

    @property
    def suffix(self) -> str:
        """How the names of kernels end that see rows of the batch."""
        return "_in_lanes" if self.in_lanes else ""

    def add_gradient(self, kind: str, parameter: str, inputs: str | None, delta: str) -> None:
        """Say of what a parameter's gradient is made: ``inputs.T @ delta``, or delta's sums.

        `kind` begins the names of the kernels that work it out. Which of them run, and on which
        tiles, is settled when the weight pass is laid out.
        """
        self.gradients[parameter] = kind, inputs, delta

    def add_constraint(self, weight: str, largest_norm: float) -> None:
        """Hold the weights of each unit to a largest norm, after every update."""
        self.constraints[weight] = largest_norm
