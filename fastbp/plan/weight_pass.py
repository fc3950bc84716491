"""The weight pass of a plan: tiles of parameters, and the steps that run on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fastbp.optimizers import Optimizer
from fastbp.plan.plan import Step, Tile
from fastbp.plan.tables import PlanBuilder

__all__ = ["WeightPass", "add_weight_pass"]


@dataclass
class WeightPass:
    """The rows that a weight pass adds to a plan."""

    begin: Step | None = None
    reduce_tiles: Step | None = None
    steps: list[Step] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    sums: int = 0  # places in tile_norm and tile_penalty that are taken
    shares: int = 1  # that the rows are cut into


# Panels whose tiles take turns, so that the rows of A that one tile read serve the next ones.
PANELS_A_TURN = 4


# A weight of fewer tiles than this has tiles of half the height, so that workers can share it.
FEW_TILES = 8


def tile_rows(builder: PlanBuilder, parameter: str) -> int:
    """Rows of a tile: about `tile_elements` elements of a panel, in whole panels of the inputs.

    Half a panel of the inputs, where there would be only a few tiles.
    """
    panel, tensor = builder.panel, builder.tensors[parameter]
    if builder.geometry.is_grid:  # a square tile of a panel; one panel of a bias
        return panel if builder.is_weight(parameter) else 1
    if not builder.is_weight(parameter):
        return max(builder.geometry.tile_elements // panel, 1)
    if builder.in_lanes:  # each element is work; transposed copies are made in whole lines
        return builder.line
    height = max(builder.geometry.tile_elements // panel // panel, 1) * panel
    tiles = -(-tensor.rows // height) * -(-tensor.padded_columns // panel)
    return panel // 2 if tiles < FEW_TILES else height


def tiles_of(builder: PlanBuilder, parameter: str, height: int) -> Iterator[tuple[int, int]]:
    """The tiles of a parameter tensor: first and last row, counted through its panels."""
    tensor = builder.tensors[parameter]
    panels = -(-tensor.padded_columns // builder.panel)
    if not builder.is_weight(parameter):
        for first in range(0, panels, height):
            yield first, min(first + height, panels)
        return
    for turn in range(0, panels, PANELS_A_TURN):
        for row in range(0, tensor.rows, height):
            for panel in range(turn, min(turn + PANELS_A_TURN, panels)):
                start = panel * tensor.rows
                yield start + row, start + min(row + height, tensor.rows)


def shares_of_rows(builder: PlanBuilder, tiles: int) -> int:
    """Shares that the rows are cut into, so that tiles times shares are enough blocks."""
    geometry = builder.geometry
    if not geometry.is_grid:
        return 1
    most = max(builder.segment_rows // geometry.share_rows, 1)
    return min(-(-geometry.blocks // tiles), most)


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
    names = list(builder.specifications)
    heights = {name: tile_rows(builder, name) for name in names}
    spans = {name: list(tiles_of(builder, name, heights[name])) for name in names}
    total = sum(len(found) for found in spans.values())
    result = WeightPass(shares=shares_of_rows(builder, total))
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
    for layer, place in builder.places:
        layer.add_gradients(builder, place)
    in_one = builder.segment_rows == builder.batch_rows and not builder.in_lanes
    at_once = optimizer is not None and not split and in_one and not builder.geometry.is_grid
    done: set[str] = set()
    for name in names:
        if name in done:
            continue
        first = len(result.steps)
        if optimizer is not None and at_once:
            bias = bias_beside(builder, name, spans)
            add_step(builder, result, name, bias, optimizer, heights[name])
            middle = first
            result.sums += len(spans[bias]) if bias else 0
            done |= {bias} if bias else set()
        else:
            add_gradient(builder, result, name, optimizer, heights[name])
            middle = len(result.steps)
            if optimizer is not None:
                add_update(builder, result, name, optimizer)
        last = len(result.steps)
        result.tiles += [Tile(name, first, middle, last, *span) for span in spans[name]]
        result.sums += len(spans[name])
    return result


def bias_beside(
    builder: PlanBuilder, name: str, spans: dict[str, list[tuple[int, int]]]
) -> str | None:
    """The bias that is changed in the call that changes a weight, if the weight is one tile."""
    _, inputs, delta = builder.gradients[name]
    if len(spans[name]) > 1 or not builder.is_weight(name):
        return None
    of_layer = inputs if builder.is_turned(name) else delta
    for other, (_, factor, summed) in builder.gradients.items():
        if factor is None and summed == of_layer and len(spans[other]) == 1:
            return other
    return None


def add_slots(builder: PlanBuilder, name: str, optimizer: Optimizer) -> str:
    """Lay out an optimizer's slots of a parameter; the kernels find all of them from the first."""
    tensor = builder.tensors[name]
    slots = [
        builder.add(f"{name}.{slot}", "slots", tensor.rows, tensor.columns)
        for slot in optimizer.slots
    ]
    return slots[0] if slots else builder.absent()


def add_step(
    builder: PlanBuilder,
    result: WeightPass,
    name: str,
    bias: str | None,
    optimizer: Optimizer,
    height: int,
) -> None:
    """Gradient and update in one step, of a weight and, where there is one beside it, its bias."""
    kind, inputs, delta = builder.gradients[name]
    slots = add_slots(builder, name, optimizer)
    bias_slots = add_slots(builder, bias, optimizer) if bias else builder.absent()
    transposed = f"{name}.transposed"
    result.steps.append(
        Step(
            f"{kind}_step",
            (
                name,
                slots,
                transposed if transposed in builder.tensors else builder.absent(),
                bias or builder.absent(),
                bias_slots,
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
                result.sums,
                int(builder.is_turned(name)),
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
    if result.shares > 1:
        copies = (result.shares - 1) * tensor.rows
        builder.add(f"{name}.gradient.shares", "gradients", copies, tensor.columns)
    # Without an optimizer nobody wants the sums of the tiles, and there are no penalties.
    sums = [builder.absent() if optimizer is None else t for t in ("tile_norm", "tile_penalty")]
    tensors = [gradient, *sums]
    if inputs is not None:
        penalties = builder.absent() if optimizer is None else "penalties"
        tensors += [name, penalties, inputs]
    what = "bias" if inputs is None else "weight"
    result.steps.append(
        Step(
            f"{kind}_{what}_gradient{builder.suffix}",
            (*tensors, delta, "scalars", "batch"),
            (height, result.sums),
        )
    )


def add_update(builder: PlanBuilder, result: WeightPass, name: str, optimizer: Optimizer) -> None:
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
