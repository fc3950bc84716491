"""What happens inside the layers of a network while it trains, from what an engine has at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.activations import Activation
from fastbp.backends.contract import KERNELS
from fastbp.backends.layout import panels_of_rows
from fastbp.plan import Plan, Tensor

__all__ = ["LayerStatistics"]

BLOCK = 65_536  # numbers whose squares are summed at a time, so that memory and caches suffice


class Members:
    """The layers of a network that are made of no others, by number, and what belongs to each."""

    def __init__(self, plan: Plan) -> None:
        self.names = [name for name, _, _ in plan.network.members()]
        self.numbers = {name: i for i, name in enumerate(self.names)}
        self.with_parameters = np.zeros(len(self.names), dtype=np.bool_)
        for name, _ in plan.network.parameters():
            self.with_parameters[self.of(name)] = True

    def of(self, parameter: str) -> int:
        """The number of the layer that has a parameter: ``"2.0"`` has ``"2.0.weight"``."""
        return self.numbers[parameter.rpartition(".")[0]]

    def add_up(self, members: NDArray[np.int64], values: NDArray[Any]) -> NDArray[np.float64]:
        """The sum of the values of each layer; NaN for layers without parameters."""
        counts = np.bincount(members, weights=values, minlength=len(self.names))
        sums = counts.astype(np.float64)  # of nothing, integers
        sums[~self.with_parameters] = np.nan
        return sums


class Sums:
    """Sums of squares over the parameters of each layer, in the slab of the parameters.

    Each parameter counts once: the transposed copies in that slab do not, and padding holds zeros.

    Parameters
    ----------
    plan : Plan
    members : Members
    """

    def __init__(self, plan: Plan, members: Members) -> None:
        tensors = {tensor.name: tensor for tensor in plan.tensors}
        found = [tensors[name] for name, _ in plan.network.parameters()]
        found.sort(key=lambda tensor: tensor.offset)
        self.members = members
        self.layer = np.array([members.of(tensor.name) for tensor in found], dtype=np.int64)
        # Where each tensor begins and where it ends: what lies between two of them is a sum apart.
        ends = [place for t in found for place in (t.offset, t.offset + t.elements)]
        self.numbers = ends[-1] if ends else 0
        self.totals = np.zeros(max(len(ends) - 1, 0))
        self.squares = np.empty(min(self.numbers, BLOCK))
        self.blocks = blocks_of(np.array(ends[:-1], dtype=np.int64), self.numbers)

    def of_slab(self, slab: NDArray[Any], minus: NDArray[Any] | None = None) -> NDArray[np.float64]:
        """The sums for each layer, of a slab or of the difference of two."""
        self.totals[:] = 0.0
        with np.errstate(all="ignore"):  # what is not finite goes into the results
            for place, starts, sums in self.blocks:
                part = slab[place]
                squares = self.squares[: len(part)]
                if minus is not None:
                    np.subtract(part, minus[place], out=squares, dtype=np.float64)
                    part = squares
                np.square(part, out=squares, dtype=np.float64)
                self.totals[sums] += np.add.reduceat(squares, starts)
        return self.members.add_up(self.layer, self.totals[::2])


def blocks_of(
    starts: NDArray[np.int64], numbers: int
) -> list[tuple[slice, NDArray[np.int64], slice]]:
    """A vector of some numbers, in which sums begin at some places, in blocks.

    Returns
    -------
    list of (slice, starts, slice)
        The numbers of each block, where sums begin in it, and which sums those are.
    """
    found = []
    for begin in range(int(starts[0]) if len(starts) else 0, numbers, BLOCK):
        end = min(begin + BLOCK, numbers)
        first = int(np.searchsorted(starts, begin, "right")) - 1
        last = int(np.searchsorted(starts, end, "left"))
        inside = np.maximum(starts[first:last] - begin, 0)
        found.append((slice(begin, end), inside, slice(first, last)))
    return found


def tile_members(plan: Plan, members: Members) -> NDArray[np.int64]:
    """The layer of every place in ``tile_norm``."""
    tiles: dict[str, int] = {}
    for tile in plan.tiles:
        tiles[tile.parameter] = tiles.get(tile.parameter, 0) + 1
    total = next(tensor.columns for tensor in plan.tensors if tensor.name == "tile_norm")
    layers = np.full(total, -1, dtype=np.int64)
    for step in plan.weight_steps:
        contract = KERNELS[step.kernel]
        if "first_tile" not in contract.sizes:
            continue
        names = dict(zip(contract.tensors, step.tensors, strict=True))
        first = dict(zip(contract.sizes, step.sizes, strict=True))["first_tile"]
        name = names.get("gradient", "").removesuffix(".gradient") or names["parameter"]
        count = tiles[name]
        if names.get("bias", "none") != "none":  # its sums go to the place after the weight's
            count += 1
        layers[first : first + count] = members.of(name)
    assert (layers >= 0).all()
    return layers


class Outputs:
    """The shares of units that are idle and of outputs that are saturated, of one activation.

    Parameters
    ----------
    engine : Engine
    tensor : Tensor
        Of its outputs.
    activation : Activation
    """

    def __init__(self, engine: Any, tensor: Tensor, activation: Activation) -> None:
        self.engine, self.tensor = engine, tensor
        self.idle, self.saturated = activation.idle_outputs, activation.saturated_outputs
        self.units = tensor.rows if engine.plan.in_lanes else tensor.columns
        self.memory: NDArray[Any] | None = None
        self.mask = np.empty(tensor.elements, dtype=np.bool_)

    @property
    def tell_anything(self) -> bool:
        """Whether there is anything to be told from them."""
        return self.idle is not None or self.saturated is not None

    def shares(self) -> tuple[float, float]:
        """The share of units that are idle for every row, and of outputs that are saturated."""
        plan, rows = self.engine.plan, self.engine.rows_at_hand
        self.memory = self.engine.buffers.numbers(self.tensor.name, self.memory)
        # In lanes every view has all units and some of the rows, else the reverse.
        axes = (0, 2) if plan.in_lanes else (1,)
        high, low = [], []
        outside = 0
        for _, _, view in panels_of_rows(self.tensor, plan, self.memory, rows):
            if self.saturated is not None:
                outside += self.count_outside(view, *self.saturated)
            if self.idle is not None:
                high.append(np.maximum.reduce(view, axis=axes))
                if self.idle[0] > -np.inf:
                    low.append(np.minimum.reduce(view, axis=axes))
        dead = saturated = np.nan
        if self.idle is not None:
            if plan.in_lanes:
                high, low = [np.max(high, axis=0)], [np.min(low, axis=0)] if low else []
            idle = sum(np.count_nonzero(part <= self.idle[1]) for part in high)
            if low:
                both = zip(low, high, strict=True)
                first, last = self.idle
                idle = sum(np.count_nonzero((a >= first) & (b <= last)) for a, b in both)
            dead = idle / self.units
        if self.saturated is not None:
            saturated = outside / (rows * self.units)
        return dead, saturated

    def count_outside(self, view: NDArray[Any], low: float, high: float) -> int:
        """How many numbers are at most `low` or at least `high`."""
        mask = self.mask[: view.size].reshape(view.shape)
        found = 0
        if low > -np.inf:
            found += int(np.count_nonzero(np.less_equal(view, low, out=mask)))
        if high < np.inf:
            found += int(np.count_nonzero(np.greater_equal(view, high, out=mask)))
        return found


class LayerStatistics:
    """Numbers of each layer of a network, from the last batch that an engine ran.

    All memory is taken here, so that `fill` may be called after every epoch.

    Parameters
    ----------
    engine : Engine
        Of a plan that trains or finds the gradient, on any device.
    """

    def __init__(self, engine: Any) -> None:
        plan: Plan = engine.plan
        self.engine = engine
        self.members = Members(plan)
        self.sums = Sums(plan, self.members)
        tensors = {tensor.name: tensor for tensor in plan.tensors}
        self.tiles: NDArray[np.int64] | None = None
        if "tile_norm" in tensors:
            self.tiles = tile_members(plan, self.members)
        self.outputs: list[tuple[int, Outputs]] = []
        for i, (name, layer, _) in enumerate(plan.network.members()):
            activation, output = getattr(layer, "activation", None), tensors.get(f"{name}.output")
            if isinstance(activation, Activation) and output is not None:
                outputs = Outputs(engine, output, activation)
                if outputs.tell_anything:
                    self.outputs.append((i, outputs))
        self.tile_norms: NDArray[Any] | None = None
        self.parameters: NDArray[Any] | None = None

    @property
    def numbers(self) -> tuple[int, int, int]:
        """What `fill` looks at: layers, parameters with their padding, and outputs."""
        outputs = sum(outputs.tensor.elements for _, outputs in self.outputs)
        return len(self.members.names), self.sums.numbers, outputs

    def fill(self, row: Any, before: NDArray[Any] | None = None) -> None:
        """Write the numbers of every layer after an epoch, or after a gradient.

        Parameters
        ----------
        row : np.void or dict of arrays
            Each of its fields has a number for every layer of `Network.members()`, NaN where it
            makes no sense. layer_gradient_norm: of the last batch, penalties included, before
            clipping. layer_parameter_norm: after it. layer_update_ratio: |change| by |before|.
            layer_dead_share: of the units, those that are idle (`Activation.idle_outputs`) for
            every row of the last segment. layer_saturated_share: of the outputs for these rows,
            those that are saturated (`Activation.saturated_outputs`).
        before : array, optional
            The parameters before the last step, as `Engine.snapshot` gave them.
        """
        self.parameters = self.engine.snapshot(self.parameters)
        row["layer_gradient_norm"][...] = np.sqrt(self.gradient_squares())
        row["layer_parameter_norm"][...] = np.sqrt(self.sums.of_slab(self.parameters))
        row["layer_update_ratio"][...] = np.nan
        if before is not None:
            row["layer_update_ratio"][...] = self.update_ratios(before, self.parameters)
        dead, saturated = row["layer_dead_share"], row["layer_saturated_share"]
        dead[...] = saturated[...] = np.nan
        for i, outputs in self.outputs:
            dead[i], saturated[i] = outputs.shares()

    def gradient_norms(self) -> dict[str, float]:
        """The norm of each layer's gradient in the last batch, by the layer's name."""
        norms = np.sqrt(self.gradient_squares())
        has = self.members.with_parameters
        return {self.members.names[i]: float(norms[i]) for i in np.flatnonzero(has)}

    def gradient_squares(self) -> NDArray[np.float64]:
        """The squared norm of each layer's gradient."""
        buffers, members = self.engine.buffers, self.members
        if self.tiles is not None:
            self.tile_norms = buffers.numbers("tile_norm", self.tile_norms)
            return members.add_up(self.tiles, self.tile_norms[: len(self.tiles)])
        names = [name for name, _ in self.engine.plan.network.parameters()]
        squares = [
            np.square(buffers.numbers(f"{name}.gradient"), dtype=np.float64).sum() for name in names
        ]
        return members.add_up(np.array([members.of(name) for name in names]), np.array(squares))

    def update_ratios(self, before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
        """|after - before| / |before| of each layer, from two snapshots; NaN where before is 0."""
        changed, size = self.sums.of_slab(after, before), self.sums.of_slab(before)
        size[size == 0] = np.nan
        return np.asarray(np.sqrt(changed / size))

    def update_ratio(self, before: NDArray[Any], after: NDArray[Any]) -> float:
        """The same of all parameters together."""
        changed, size = self.sums.of_slab(after, before), self.sums.of_slab(before)
        has = self.members.with_parameters
        whole = float(size[has].sum())
        return float(np.sqrt(changed[has].sum() / whole)) if whole != 0 else np.nan
