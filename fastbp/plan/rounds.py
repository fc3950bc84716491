"""What follows the update of the parameters: constraints, and the moving average."""

from __future__ import annotations

from fastbp.plan.plan import Round, Step, Tensor, Tile
from fastbp.plan.tables import PlanBuilder

__all__ = ["add_rounds"]


def add_rounds(builder: PlanBuilder, ema: float | None) -> tuple[Round, ...]:
    """The rounds of a training plan, in order."""
    rounds = []
    if builder.constraints:
        rounds.append(add_constraints(builder))
    if ema is not None:
        rounds.append(add_average(builder))
    return tuple(rounds)


def add_constraints(builder: PlanBuilder) -> Round:
    """Weights held to a largest norm of each unit's: tiles of whole units."""
    steps: list[Step] = []
    tiles = []
    for name, limit in builder.constraints.items():
        tensor, turned = builder.tensors[name], builder.is_turned(name)
        copy = f"{name}.transposed"
        tensors = (
            name,
            copy if copy in builder.tensors else builder.absent(),
            builder.add_values(f"{name}.limit", (limit,)),
        )
        count, height = -(-tensor.padded_columns // builder.panel), 1
        if turned:  # copies are made in whole lines
            count = tensor.rows
            wanted = builder.geometry.tile_elements // tensor.padded_columns // builder.line
            height = max(wanted, 1) * builder.line
        number = len(steps)
        steps.append(Step("constrain_weight", tensors, (tensor.columns, int(turned))))
        tiles += [
            Tile(name, number, number + 1, number + 1, first, min(first + height, count))
            for first in range(0, count, height)
        ]
    return Round(tuple(steps), tuple(tiles))


def add_average(builder: PlanBuilder) -> Round:
    """The moving average of the whole slab of the parameters, in a slab laid out in the same way.

    The slab may hold a weight twice, once the other way round; the average of the copy is the copy
    of the average, to the bit. Tiles are runs of whole lines.
    """
    length = builder.lengths["parameters"]
    # Another name for what is there: all parameters as a vector.
    builder.tensors["parameters"] = Tensor("parameters", "parameters", 1, length, length, 0)
    builder.add_vector("averages", "averages", length, "real")
    tensors = ("averages", "parameters", "scalars")
    step = Step("average_parameters", tensors, ())
    lines = -(-length // builder.line)
    height = max(builder.geometry.tile_elements // builder.line, 1)
    tiles = tuple(
        Tile("averages", 0, 1, 1, first, min(first + height, lines))
        for first in range(0, lines, height)
    )
    return Round((step,), tiles)
