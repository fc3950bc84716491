"""Network -> Plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastbp.backends.contract import Batch, Scalar
from fastbp.losses import Loss
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.plan.plan import Geometry, Plan, Slab, Step, Tensor, Tile
from fastbp.shuffle import ROUNDS

__all__ = ["PlanBuilder", "build_plan"]

# The order of the rows is worked out for at least so many at a time: a vector's worth costs what one
# row costs.
ORDERED_ROWS = 512

ITEM_BYTES = {"float32": 4, "float64": 8, "int64": 8}


class PlanBuilder:
    """Collects the tables of a plan; layers add their own rows to it."""

    def __init__(self, network: Network, dtype: str, batch_rows: int, geometry: Geometry) -> None:
        self.network = network
        self.dtype = dtype
        self.batch_rows = batch_rows
        self.geometry = geometry
        self.segment_rows = min(batch_rows, geometry.segment_rows)
        self.line = geometry.alignment // ITEM_BYTES[dtype]
        self.specifications = dict(network.parameters())
        self.turned: set[str] = set()
        self.tensors: dict[str, Tensor] = {}
        self.kinds: dict[str, str] = {}
        self.lengths: dict[str, int] = {}
        self.values: dict[str, tuple[float, ...]] = {}
        self.propagation: list[Step] = []
        self.gradients: dict[str, tuple[str, str | None, str]] = {}

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
        """A matrix with a row for each row of a segment."""
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

    def absent(self) -> str:
        """The name of the tensor that is not there."""
        self.tensors["none"] = Tensor("none", "data", 0, 0, 0, 0)
        return "none"

    def transpose(self, weight: str) -> str:
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

    def add_parameters(self) -> None:
        """Lay out the parameters; the weights of thin layers lie the other way round."""
        for name, specification in self.network.parameters():
            rows, columns = specification.matrix_shape
            if specification.is_weight and self.is_thin(rows, columns):
                self.turned.add(name)
                rows, columns = columns, rows
            self.add(name, "parameters", rows, columns)

    def is_thin(self, inputs: int, units: int) -> bool:
        """Whether sums along the inputs take fewer instructions than a padded line of units.

        A row of one unit takes a multiply-add for each line of inputs and about three operations to
        add up its lanes; padded to a line, all units of a row take one multiply-add an input. The
        factor of two is measured: the first kind waits for its operands more.
        """
        return units <= self.line and 2 * units * (-(-inputs // self.line) + 3) <= inputs

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

    def add_gradient(self, kind: str, parameter: str, inputs: str | None, delta: str) -> None:
        """Say of what a parameter's gradient is made: ``inputs.T @ delta``, or delta's sums.

        `kind` begins the names of the kernels that work it out. Which of them run, and on which
        tiles, is settled when the weight pass is laid out.
        """
        self.gradients[parameter] = kind, inputs, delta


def add_loss(builder: PlanBuilder, loss: Loss) -> None:
    """Add the loss step: row losses, row weights, and the delta of the last layer."""
    outputs = builder.network.outputs
    last = len(builder.network.layers) - 1
    builder.add_vector("row_loss", "rows", builder.segment_rows, "real")
    builder.add_vector("row_weight", "rows", builder.segment_rows, "real")
    builder.add_data("data.targets", 1 if loss.targets == "class" else outputs)
    builder.add_data("data.weights", 1)
    tensors = ["row_loss", "row_weight", f"{last}.delta", f"{last}.output"]
    tensors += ["data.targets", "data.weights", "row_index", "batch"]
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
    ahead = max(builder.segment_rows, ORDERED_ROWS)
    builder.add_vector("row_index", "row_index", ahead, "int64")
    builder.add_vector("scalars", "scalars", int(Scalar.COUNT), "float64")
    builder.add_data("data.inputs", inputs)
    builder.add_rows("inputs", "activations", inputs)
    builder.add_step("gather_inputs", ["inputs", "data.inputs", "row_index", "batch"], [inputs])
    backward = purpose in {"gradient", "input_gradient", "vjp", "train"}
    for i, layer in enumerate(network.layers):
        # Evaluation needs no derivative; the loss step of the last layer has a place for it.
        layer.add_forward(builder, i, derivative=backward or (loss is not None and i == last))
    if loss is not None:
        add_loss(builder, loss)
    if purpose == "vjp":
        builder.add_data("data.cotangent", outputs)
        builder.add_step(
            "multiply_cotangent", [f"{last}.delta", "data.cotangent", "batch"], [outputs]
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


# Panels whose tiles take turns, so that the rows of A that one tile read serve the next ones.
PANELS_A_TURN = 8


def tile_rows(builder: PlanBuilder, parameter: str) -> int:
    """Rows of a tile: about `tile_elements` elements of a panel, in whole panels of the inputs."""
    panel = 2 * builder.line
    if not builder.is_weight(parameter):
        return max(builder.geometry.tile_elements // panel, 1)
    return max(builder.geometry.tile_elements // panel // panel, 1) * panel


def tiles_of(builder: PlanBuilder, parameter: str, height: int) -> Iterator[tuple[int, int]]:
    """The tiles of a parameter tensor: first and last row, counted through its panels."""
    tensor = builder.tensors[parameter]
    panels = -(-tensor.padded_columns // (2 * builder.line))
    if not builder.is_weight(parameter):
        for first in range(0, panels, height):
            yield first, min(first + height, panels)
        return
    for turn in range(0, panels, PANELS_A_TURN):
        for row in range(0, tensor.rows, height):
            for panel in range(turn, min(turn + PANELS_A_TURN, panels)):
                start = panel * tensor.rows
                yield start + row, start + min(row + height, tensor.rows)


def add_weight_pass(
    builder: PlanBuilder,
    optimizer: Optimizer | None,
    l1: float,
    l2: float,
    clip_value: float | None,
    split: bool,
) -> WeightPass:
    """The steps and tiles of the weight pass; without an optimizer, the gradients alone.

    With `split`, all gradients are known before the first update.
    """
    names = dict(builder.network.parameters())
    heights = {name: tile_rows(builder, name) for name in names}
    spans = {name: list(tiles_of(builder, name, heights[name])) for name in names}
    total = sum(len(found) for found in spans.values())
    result = WeightPass()
    if optimizer is not None:
        builder.add_vector("tile_norm", "tile_sums", total, "float64")
        builder.add_vector("tile_penalty", "tile_sums", total, "float64")
        builder.add_values("penalties", (l1, l2), "float64")
        builder.add_values("clip", (float("inf") if clip_value is None else clip_value,))
        builder.add_vector("coefficients", "settings", optimizer.coefficient_count, "real")
        builder.add_values("carry", optimizer.carry, "float64")
        builder.add_values("optimizer", optimizer.settings, "float64")
        sums = ("scalars", "tile_norm", "tile_penalty")
        result.begin = Step(
            "begin_step", ("coefficients", "carry", "scalars", "optimizer"), (), optimizer
        )
        result.reduce_tiles = Step("reduce_tiles", sums, (total,))
    for i, layer in enumerate(builder.network.layers):
        layer.add_gradients(builder, i)
    at_once = optimizer is not None and not split and builder.segment_rows == builder.batch_rows
    for name in names:
        first, first_tile = len(result.steps), len(result.tiles)
        if optimizer is not None and at_once:
            add_step(builder, result, name, optimizer, heights[name])
            middle = first
        else:
            add_gradient(builder, result, name, optimizer, heights[name])
            middle = len(result.steps)
            if optimizer is not None:
                add_update(builder, result, name, optimizer)
        last = len(result.steps)
        result.tiles += [Tile(name, first, middle, last, *span) for span in spans[name]]
        assert first_tile + len(spans[name]) == len(result.tiles)
    return result


def add_slots(builder: PlanBuilder, name: str, optimizer: Optimizer) -> str:
    """Lay out an optimizer's slots of a parameter; the kernels find all of them from the first."""
    tensor = builder.tensors[name]
    slots = [
        builder.add(f"{name}.{slot}", "slots", tensor.rows, tensor.columns)
        for slot in optimizer.slots
    ]
    return slots[0] if slots else builder.absent()


def add_step(
    builder: PlanBuilder, result: WeightPass, name: str, optimizer: Optimizer, height: int
) -> None:
    """Gradient and update in one step."""
    kind, inputs, delta = builder.gradients[name]
    slots = add_slots(builder, name, optimizer)
    transposed = f"{name}.transposed"
    moved = builder.network.parameter_count * ITEM_BYTES[builder.dtype]
    result.steps.append(
        Step(
            f"{kind}_step",
            (
                name,
                slots,
                transposed if transposed in builder.tensors else builder.absent(),
                "tile_norm",
                "tile_penalty",
                "penalties",
                inputs or builder.absent(),
                delta,
                "scalars",
                "batch",
                "coefficients",
                "clip",
            ),
            (
                builder.tensors[name].columns,
                height,
                len(result.tiles),
                int(moved * (1 + len(optimizer.slots)) > builder.geometry.near_bytes),
            ),
            optimizer,
        )
    )


def add_gradient(
    builder: PlanBuilder,
    result: WeightPass,
    name: str,
    optimizer: Optimizer | None,
    height: int,
) -> None:
    """The step that leaves a gradient in a tensor of its own."""
    kind, inputs, delta = builder.gradients[name]
    tensor = builder.tensors[name]
    gradient = builder.add(f"{name}.gradient", "gradients", tensor.rows, tensor.columns)
    # Without an optimizer nobody wants the sums of the tiles, and there are no penalties.
    sums = [builder.absent() if optimizer is None else t for t in ("tile_norm", "tile_penalty")]
    tensors = [gradient, *sums]
    if inputs is not None:
        penalties = builder.absent() if optimizer is None else "penalties"
        tensors += [name, penalties, inputs]
    what = "bias" if inputs is None else "weight"
    result.steps.append(
        Step(
            f"{kind}_{what}_gradient",
            (*tensors, delta, "scalars", "batch"),
            (height, len(result.tiles)),
        )
    )


def add_update(
    builder: PlanBuilder, result: WeightPass, name: str, optimizer: Optimizer
) -> None:
    """The steps that change a parameter tensor, once its gradient is known."""
    tensor = builder.tensors[name]
    slots = add_slots(builder, name, optimizer)
    result.steps.append(
        Step(
            "update_parameters",
            (name, slots, f"{name}.gradient", "coefficients", "clip", "scalars"),
            (tensor.columns, int(builder.is_weight(name))),
            optimizer,
        )
    )
    transposed = f"{name}.transposed"
    if transposed in builder.tensors:
        result.steps.append(Step("transpose_weight", (transposed, name), (tensor.columns,)))


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
    builder.add_parameters()
    add_propagation(builder, purpose, loss)
    weight_pass = WeightPass()
    if purpose in {"gradient", "train"}:
        weight_pass = add_weight_pass(
            builder, optimizer, l1, l2, clip_value, split=clip_norm is not None
        )
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
        segment_rows=builder.segment_rows,
        geometry=geometry,
        slabs=tuple(slabs),
        tensors=tuple(builder.tensors.values()),
        values=dict(builder.values),
        turned=frozenset(builder.turned),
        order=Step("order_rows", ("row_index", "keys", "batch"), ()),
        propagation=tuple(builder.propagation),
        reduce_loss=reduce_loss,
        begin=weight_pass.begin,
        reduce_tiles=weight_pass.reduce_tiles,
        weight_steps=tuple(weight_pass.steps),
        tiles=tuple(weight_pass.tiles),
        clip_norm=clip_norm,
        multiply_adds=batch_rows * network.parameter_count * passes,
    )
