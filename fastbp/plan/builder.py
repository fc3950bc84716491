"""Network -> Plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastbp.backends.contract import Batch, Scalar
from fastbp.losses import Loss
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.plan.plan import Geometry, Plan, Slab, Step, Tensor, Tile
from fastbp.shuffle import ROUNDS

__all__ = ["PlanBuilder", "build_plan"]

ITEM_BYTES = {"float32": 4, "float64": 8, "int64": 8}


class PlanBuilder:
    """Collects the tables of a plan; layers add their own rows to it."""

    def __init__(self, network: Network, dtype: str, batch_rows: int, geometry: Geometry) -> None:
        self.network = network
        self.dtype = dtype
        self.batch_rows = batch_rows
        self.geometry = geometry
        self.tensors: dict[str, Tensor] = {}
        self.kinds: dict[str, str] = {}
        self.lengths: dict[str, int] = {}
        self.values: dict[str, tuple[float, ...]] = {}
        self.propagation: list[Step] = []
        self.gradient_steps: dict[str, list[Step]] = {}

    # Tensors.

    def add(self, name: str, slab: str, rows: int, columns: int, kind: str = "real") -> str:
        """Lay a matrix at the end of a slab, its rows padded to the alignment."""
        unit = self.geometry.alignment // ITEM_BYTES[self.dtype if kind == "real" else kind]
        leading_dimension = -(-columns // unit) * unit
        offset = self.lengths.get(slab, 0)
        self.kinds[slab] = kind
        self.lengths[slab] = offset + rows * leading_dimension
        self.tensors[name] = Tensor(name, slab, rows, columns, leading_dimension, offset)
        return name

    def add_rows(self, name: str, slab: str, columns: int) -> str:
        """A matrix with a row for each row of the batch."""
        return self.add(name, slab, self.batch_rows, columns)

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

    def absent(self) -> str:
        """The name of the tensor that is not there."""
        self.tensors["none"] = Tensor("none", "data", 0, 0, 0, 0)
        return "none"

    def transpose(self, weight: str) -> str:
        """The transposed copy of a weight, kept up to date by the update step."""
        name = f"{weight}.transposed"
        if name not in self.tensors:
            source = self.tensors[weight]
            self.add(name, "transposed", source.columns, source.rows)
        return name

    # Layers.

    def sizes(self, index: int) -> tuple[int, int]:
        """Inputs and outputs of a layer."""
        sizes = self.network.sizes
        return sizes[index], sizes[index + 1]

    def input_name(self, index: int) -> str:
        """The tensor that a layer reads."""
        return f"{index - 1}.output" if index else "inputs"

    # Steps.

    def add_step(
        self, kernel: str, tensors: Sequence[str], sizes: Sequence[int], law: Any = None
    ) -> None:
        """Add a step of the propagation pass; a law's settings become its last tensor."""
        names = list(tensors)
        if law is not None:
            names.append(self.add_values(f"settings.{len(self.propagation)}", law.settings))
        self.propagation.append(Step(kernel, tuple(names), tuple(sizes), law))

    def add_gradient_step(
        self, kernel: str, parameter: str, tensors: Sequence[str], sizes: Sequence[int]
    ) -> None:
        """Add the step that computes the gradient of a parameter tensor."""
        names = (f"{parameter}.gradient", *tensors)
        self.gradient_steps.setdefault(parameter, []).append(Step(kernel, names, tuple(sizes)))


def add_loss(builder: PlanBuilder, loss: Loss) -> None:
    """Add the loss step: row losses, row weights, and the delta of the last layer."""
    outputs = builder.network.outputs
    last = len(builder.network.layers) - 1
    builder.add_vector("row_loss", "rows", builder.batch_rows, "real")
    builder.add_vector("row_weight", "rows", builder.batch_rows, "real")
    builder.add_data("data.targets", 1 if loss.targets == "class" else outputs)
    builder.add_data("data.weights", 1)
    tensors = ["row_loss", "row_weight", f"{last}.delta", f"{last}.output"]
    tensors += ["data.targets", "data.weights", "row_index"]
    if loss.law is None:
        builder.add_step(f"{loss.name}_loss", tensors, [outputs])
    else:
        builder.add_step("elementwise_loss", tensors, [outputs], law=loss)


def add_propagation(builder: PlanBuilder, purpose: str, loss: Loss | None) -> None:
    """Add the propagation pass that a purpose needs."""
    network = builder.network
    last = len(network.layers) - 1
    inputs, outputs = network.inputs, network.outputs
    builder.add_vector("batch", "batch", int(Batch.COUNT), "int64")
    builder.add_vector("keys", "batch", ROUNDS, "int64")
    builder.add_vector("row_index", "row_index", builder.batch_rows, "int64")
    builder.add_vector("scalars", "scalars", int(Scalar.COUNT), "float64")
    builder.add_data("data.inputs", inputs)
    builder.add_rows("inputs", "activations", inputs)
    builder.add_step(
        "gather_inputs", ["inputs", "row_index", "data.inputs", "keys", "batch"], [inputs]
    )
    backward = purpose in {"gradient", "input_gradient", "vjp", "train"}
    for i, layer in enumerate(network.layers):
        # Evaluation needs no derivative; the loss step of the last layer has a place for it.
        layer.add_forward(builder, i, derivative=backward or (loss is not None and i == last))
    if loss is not None:
        add_loss(builder, loss)
    if purpose == "vjp":
        builder.add_data("data.cotangent", outputs)
        builder.add_step(
            "multiply_cotangent", [f"{last}.delta", "data.cotangent", "row_index"], [outputs]
        )
    if backward:
        inputs_too = purpose in {"input_gradient", "vjp"}
        for i in reversed(range(last + 1)):
            network.layers[i].add_backward(builder, i, inputs_too=inputs_too)
    stored = {"predict": f"{last}.output", "input_gradient": "inputs.gradient"}
    stored["vjp"] = "inputs.gradient"
    if purpose in stored:
        columns = builder.tensors[stored[purpose]].columns
        builder.add_data("data.outputs", columns)
        builder.add_step("store_rows", ["data.outputs", stored[purpose], "batch"], [columns])


@dataclass
class WeightPass:
    """The rows that a weight pass adds to a plan."""

    begin: Step | None = None
    reduce_tiles: Step | None = None
    steps: list[Step] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)


def tile_rows(builder: PlanBuilder, parameter: str) -> int:
    """Rows of a tile: about `tile_elements` elements, in whole cache lines of a transposed row."""
    tensor = builder.tensors[parameter]
    line = builder.geometry.alignment // ITEM_BYTES[builder.dtype]
    rows = builder.geometry.tile_elements // tensor.leading_dimension
    return min(max(rows // line * line, line), tensor.rows)


def add_weight_pass(
    builder: PlanBuilder,
    optimizer: Optimizer | None,
    l1: float,
    l2: float,
    clip_value: float | None,
) -> WeightPass:
    """The steps and tiles of the weight pass; without an optimizer, the gradients alone."""
    for i, layer in enumerate(builder.network.layers):
        layer.add_gradients(builder, i)
    names = dict(builder.network.parameters())
    heights = {name: tile_rows(builder, name) for name in names}
    counts = {name: -(-builder.tensors[name].rows // heights[name]) for name in names}
    begin = None
    reduce_tiles = None
    if optimizer is not None:
        total = sum(counts.values())
        builder.add_vector("tile_norm", "tile_sums", total, "float64")
        builder.add_vector("tile_penalty", "tile_sums", total, "float64")
        builder.add_values("penalties", (l1, l2), "float64")
        builder.add_values("clip", (float("inf") if clip_value is None else clip_value,))
        builder.add_vector("coefficients", "settings", optimizer.coefficient_count, "real")
        builder.add_values("carry", optimizer.carry, "float64")
        builder.add_values("optimizer", optimizer.settings, "float64")
        begin = Step("begin_step", ("coefficients", "carry", "scalars", "optimizer"), (), optimizer)
        reduce_tiles = Step("reduce_tiles", ("scalars", "tile_norm", "tile_penalty"), (total,))
    steps: list[Step] = []
    tiles: list[Tile] = []
    for name, specification in names.items():
        tensor = builder.tensors[name]
        builder.add(f"{name}.gradient", "gradients", tensor.rows, tensor.columns)
        is_weight = int(specification.is_weight)
        first = len(steps)
        steps += builder.gradient_steps[name]
        if optimizer is not None:
            gradient = f"{name}.gradient"
            steps.append(
                Step(
                    "penalize_gradient",
                    (gradient, "tile_norm", "tile_penalty", name, "penalties"),
                    (tensor.columns, is_weight, heights[name], len(tiles)),
                )
            )
        middle = len(steps)
        if optimizer is not None:
            slots = f"{name}.slots"
            builder.add(slots, "slots", len(optimizer.slots) * tensor.rows, tensor.columns)
            transposed = f"{name}.transposed"
            if transposed not in builder.tensors:
                transposed = builder.absent()
            steps.append(
                Step(
                    "update_parameters",
                    (name, transposed, slots, gradient, "coefficients", "clip", "scalars"),
                    (tensor.columns, is_weight),
                    optimizer,
                )
            )
        for row in range(0, tensor.rows, heights[name]):
            last = min(row + heights[name], tensor.rows)
            tiles.append(Tile(name, first, middle, len(steps), row, last))
    return WeightPass(begin, reduce_tiles, steps, tiles)


def build_plan(
    network: Network,
    purpose: str,
    dtype: str,
    batch_rows: int,
    geometry: Geometry,
    *,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
) -> Plan:
    """Lay out tensors and steps.

    Parameters
    ----------
    network : Network
    purpose : str
        ``predict`` (outputs), ``evaluate`` (loss), ``gradient`` (of the parameters),
        ``input_gradient`` (of the inputs), ``vjp`` (of the inputs, for given cotangents) or
        ``train``.
    dtype : str
        ``float32`` or ``float64``.
    batch_rows : int
        The most rows that a batch will have.
    geometry : Geometry
        The backend's shapes.
    loss, optimizer, l1, l2, clip_norm, clip_value
        As in `fastbp.train`; only what the purpose needs.

    Returns
    -------
    Plan
    """
    builder = PlanBuilder(network, dtype, batch_rows, geometry)
    for name, specification in network.parameters():
        builder.add(name, "parameters", *specification.matrix_shape)
    add_propagation(builder, purpose, loss)
    weight_pass = WeightPass()
    if purpose in {"gradient", "train"}:
        weight_pass = add_weight_pass(builder, optimizer, l1, l2, clip_value)
    reduce_loss = None
    if loss is not None:
        reduce_loss = Step("reduce_loss", ("scalars", "row_loss", "row_weight", "batch"), ())
    passes = {"predict": 1, "evaluate": 1, "input_gradient": 2, "vjp": 2}.get(purpose, 3)
    slabs = [Slab(name, builder.kinds[name], builder.lengths[name]) for name in builder.kinds]
    return Plan(
        network=network,
        purpose=purpose,
        dtype=dtype,
        batch_rows=batch_rows,
        geometry=geometry,
        slabs=tuple(slabs),
        tensors=tuple(builder.tensors.values()),
        values=dict(builder.values),
        propagation=tuple(builder.propagation),
        reduce_loss=reduce_loss,
        begin=weight_pass.begin,
        reduce_tiles=weight_pass.reduce_tiles,
        weight_steps=tuple(weight_pass.steps),
        tiles=tuple(weight_pass.tiles),
        clip_norm=clip_norm,
        multiply_adds=batch_rows * network.parameter_count * passes,
    )
