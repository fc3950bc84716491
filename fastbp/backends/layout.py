"""How parameters lie: in a user's flat vector, and as matrices in the panels of a slab."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.plan import Geometry, Plan, Tensor

__all__ = ["FlatParameters", "panels_of", "read_panels", "write_panels"]


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
