"""The target column of a table: numbers, or classes and their labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.tables import Table, number

__all__ = ["read_target"]


def read_target(
    table: Table, name: str, column: NDArray[Any], task: str
) -> tuple[list[Any] | None, NDArray[Any]]:
    """The classes (None for regression), and the target as labels or numbers."""
    is_text = column.dtype.kind in "US"
    if task == "auto" and is_text:
        refuse_stray_text(table, name, column)
    if task == "regression" or (task == "auto" and not is_text):
        return None, table.numbers([name])[:, 0]
    if is_text and (column == "").any():
        i = int(np.argmax(column == ""))
        raise ValueError(
            f"{table.path}: expected a class in column {name!r}; "
            f"got an empty cell in {table.place(i)}"
        )
    if not is_text:
        table.numbers([name])  # refuses NaN and infinity
    classes, labels = np.unique(column, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{table.path}: expected at least two classes in column {name!r}; got {len(classes)}"
        )
    if len(classes) > max(len(column) // 2, 2):
        raise ValueError(
            f"{table.path}: expected classes in column {name!r} that repeat; "
            f"got {len(classes)} different values in {len(column)} rows"
        )
    names = [
        int(value) if isinstance(value, float) and value.is_integer() else value
        for value in classes.tolist()
    ]
    return names, labels.astype(np.int64)


def refuse_stray_text(table: Table, name: str, column: NDArray[Any]) -> None:
    """A column of numbers with a few other cells is a mistake and no column of classes."""
    others = [i for i, cell in enumerate(column) if number(str(cell)) is None]
    if len(others) <= len(column) // 10:
        cell = repr(str(column[others[0]])) if str(column[others[0]]) else "an empty cell"
        raise ValueError(
            f"{table.path}: expected numbers in column {name!r}, as in {len(column) - len(others)} "
            f"of {len(column)} rows; got {cell} in {table.place(others[0])} "
            "(--task classification takes every value as a class)"
        )
