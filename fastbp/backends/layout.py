"""How matrices lie in the panels of a slab, and how parameters lie in a user's flat vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.contract import Batch
from fastbp.plan import Geometry, Plan, Tensor

__all__ = [
    "FlatParameters",
    "RowsOfBatch",
    "panels_of",
    "panels_of_rows",
    "read_panels",
    "write_panels",
]


class FlatParameters:
    """The parameter tensors of a plan in a flat vector, in the order of the network.

    Parameters
    ----------
    plan : Plan
    """

    def __init__(self, plan: Plan) -> None:
        self.blocks: list[tuple[str, slice, tuple[int, int], bool]] = []
        start = 0
        for name, specification in plan.network.parameters():
            place = slice(start, start + specification.size)
            shape, is_turned = specification.matrix_shape, name in plan.turned
            self.blocks.append((name, place, shape, is_turned))
            start = place.stop

    def matrices(self, flat: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Every parameter tensor's name, and a view of a flat vector in the tensor's shape."""
        for name, place, shape, is_turned in self.blocks:
            block = flat[place].reshape(shape)
            yield name, block.T if is_turned else block


def panels_of(
    tensor: Tensor, geometry: Geometry, slab: NDArray[Any]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """The panels of a tensor in its slab: first column, and a view (rows, columns with padding)."""
    panel = geometry.panel_lines * geometry.alignment // slab.itemsize
    for column in range(0, tensor.padded_columns, panel):
        width = min(panel, tensor.padded_columns - column)
        begin = tensor.offset + column * tensor.rows
        yield column, slab[begin : begin + tensor.rows * width].reshape(tensor.rows, width)


def read_panels(
    tensor: Tensor, geometry: Geometry, slab: NDArray[Any], matrix: NDArray[Any]
) -> None:
    """Copy a tensor out of its slab into a matrix (rows, columns)."""
    for column, panel in panels_of(tensor, geometry, slab):
        part = matrix[:, column : column + panel.shape[1]]
        part[...] = panel[:, : part.shape[1]]


def write_panels(
    tensor: Tensor, geometry: Geometry, slab: NDArray[Any], matrix: NDArray[Any]
) -> None:
    """Fill a tensor in its slab from a matrix (rows, columns), or from what broadcasts to one."""
    matrix = np.broadcast_to(matrix, (tensor.rows, tensor.columns))
    for column, panel in panels_of(tensor, geometry, slab):
        columns = min(panel.shape[1], tensor.columns - column)
        panel[:, :columns] = matrix[:, column : column + columns]


def panels_of_rows(
    tensor: Tensor, plan: Plan, numbers: NDArray[Any], rows: int
) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """The first rows of a matrix of the propagation pass, in at most two views on its numbers.

    Each view is all panels that are equally wide. It comes with its first and last column, or, for
    rows in lanes, row.

    Parameters
    ----------
    tensor : Tensor
    plan : Plan
    numbers : array
        All of the tensor's, as they lie.
    rows : int
        Of the batch, as many as the views have.

    Returns
    -------
    iterator of (first, last, view)
        (panels, rows, columns), or (panels, columns, rows) for rows in lanes. A last panel has no
        padding; where there are some, the others have none of their own.
    """
    panel = plan.geometry.panel_lines * plan.line
    height = tensor.rows if plan.in_lanes else rows
    columns = rows if plan.in_lanes else tensor.columns
    full = columns // panel * panel
    if full:
        count = full * tensor.rows
        view = numbers[:count].reshape(full // panel, tensor.rows, panel)
        yield 0, full, view[:, :height]
    if full < columns:
        width = min(panel, tensor.padded_columns - full)
        begin = full * tensor.rows
        view = numbers[begin : begin + tensor.rows * width].reshape(1, tensor.rows, width)
        yield full, columns, view[:, :height, : columns - full]


class RowsOfBatch:
    """What every engine has to show of the rows of the last segment that it ran."""

    plan: Plan
    buffers: Any
    batch: NDArray[np.int64]

    @property
    def rows_at_hand(self) -> int:
        """How many rows the last segment of the last batch of an epoch had."""
        plan, data_rows = self.plan, int(self.batch[Batch.DATA_ROWS])
        in_batch = data_rows - (data_rows - 1) // plan.batch_rows * plan.batch_rows
        return in_batch - (in_batch - 1) // plan.segment_rows * plan.segment_rows

    def read_rows(
        self, name: str, out: NDArray[Any] | None = None, rows: int | None = None
    ) -> NDArray[Any]:
        """A copy of a matrix of the propagation pass, as the last segment of an epoch left it.

        Parameters
        ----------
        name : str
            ``"inputs"``, ``"0.output"``, ``"0.delta"``, ... of the plan.
        out : array, optional
            (segment rows or more, columns) to write the first rows of.
        rows : int, optional
            Of the segment, where it was not the last one of an epoch.

        Returns
        -------
        array (rows of the segment, columns)
        """
        tensor, rows = self.buffers.tensors[name], self.rows_at_hand if rows is None else rows
        columns = tensor.rows if self.plan.in_lanes else tensor.columns
        numbers = self.buffers.numbers(name)
        if out is None:
            out = np.empty((rows, columns), numbers.dtype)
        matrix = out[:rows].T if self.plan.in_lanes else out[:rows]
        for first, last, view in panels_of_rows(tensor, self.plan, numbers, rows):
            panels, height, width = view.shape
            target = matrix[:, first:last]
            target.reshape(height, panels, width)[...] = view.transpose(1, 0, 2)
        return out[:rows]
