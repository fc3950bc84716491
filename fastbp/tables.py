"""Reading tables: CSV with a header (plain or .gz), .npz and .npy."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.files import check_readable, write_whole

__all__ = ["Table", "read_table"]


@dataclass(frozen=True)
class Table:
    """Columns by name, all of one length.

    Attributes
    ----------
    path : str
        Where it came from, for messages.
    columns : dict of str to array
        Numbers (float64 or as stored) or strings.
    lines : list of int or None
        The line of a text file, counted from 1, on which each row ends.
    """

    path: str
    columns: dict[str, NDArray[Any]]
    lines: list[int] | None = None

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(next(iter(self.columns.values())))

    def column(self, name: str, what: str = "column") -> NDArray[Any]:
        """One column.

        Raises
        ------
        ValueError
            If there is none of that name; the columns are listed.
        """
        if name not in self.columns:
            listed = ", ".join(self.columns)
            separator = len(self.columns) == 1 and any(mark in listed for mark in ";\t|")
            hint = " (cells are separated by commas)" if separator else ""
            raise ValueError(f"{self.path}: no {what} {name!r}; the columns are {listed}{hint}")
        return self.columns[name]

    def numbers(self, names: list[str]) -> NDArray[np.float64]:
        """Some columns as a (rows, len(names)) matrix of finite numbers.

        Raises
        ------
        ValueError
            For text, empty cells, NaN and infinity; line and column are named.
        """
        matrix = np.empty((self.rows, len(names)))
        for j, name in enumerate(names):
            column = self.column(name)
            if column.dtype.kind in "US":
                self.refuse_text(name, column)
            elif column.dtype.kind not in "fiub":
                raise ValueError(
                    f"{self.path}: expected real numbers in column {name!r}; got {column.dtype}"
                )
            matrix[:, j] = column
            bad = ~np.isfinite(matrix[:, j])
            if bad.any():
                i = int(np.argmax(bad))
                raise ValueError(
                    f"{self.path}: expected finite numbers in column {name!r}; "
                    f"got {column[i]} in {self.place(i)}"
                )
        return matrix

    def place(self, row: int) -> str:
        """A row in the words of its file."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"

    def refuse_text(self, name: str, column: NDArray[Any]) -> None:
        for i, cell in enumerate(column):
            if number(str(cell)) is None:
                got = repr(str(cell)) if str(cell).strip() else "an empty cell"
                raise ValueError(
                    f"{self.path}: expected a number in column {name!r}; "
                    f"got {got} in {self.place(i)}"
                )


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a table.

    Parameters
    ----------
    path : str or path-like
        ``.npz``: every array is a column, or several (``name0``, ``name1``, ...) if it is 2-D.
        ``.npy``: a structured array, or a 2-D array with columns ``"0"``, ``"1"``, ....
        Anything else: CSV with a header, compressed if it ends in ``.gz``.

    Returns
    -------
    Table
        A CSV column is numbers if every cell of it is one, otherwise strings.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For a file without rows, ragged lines, repeated column names, arrays of objects.
    """
    name = os.fspath(path)
    check_readable(name)
    if name.endswith((".npz", ".npy")):
        table = Table(name, dict(read_arrays(name)))
    else:
        table = Table(name, *read_csv(name))
    if not table.columns or table.rows == 0:
        raise ValueError(f"{name}: expected at least one row of data; got none")
    lengths = {len(column) for column in table.columns.values()}
    if len(lengths) > 1:
        described = ", ".join(f"{key} ({len(column)})" for key, column in table.columns.items())
        raise ValueError(f"{name}: expected columns of one length; got {described}")
    return table


def read_arrays(path: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """The columns of a NumPy file."""
    try:
        stored = np.load(path, allow_pickle=False)
        arrays = (
            {key: stored[key] for key in stored.files}
            if isinstance(stored, np.lib.npyio.NpzFile)
            else {"": stored}
        )
    except Exception as error:  # whatever NumPy or zipfile says of a damaged file
        raise ValueError(f"{path}: cannot be read as NumPy arrays ({error})") from None
    for key, stored_array in arrays.items():
        array: NDArray[Any] = stored_array
        if array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8", "replace")
        if array.dtype.names:
            for field in array.dtype.names:
                yield field, array[field]
        elif array.ndim == 1:
            yield key or "0", array
        elif array.ndim == 2:
            for j in range(array.shape[1]):
                yield f"{key}{j}", array[:, j]
        else:
            raise ValueError(
                f"{path}: expected arrays of one or two dimensions; "
                f"got shape {array.shape} for {key or 'the array'!r}"
            )


def number(cell: str) -> float | None:
    """The cell as a float, or None; Python's 1_000 is a name here and no number."""
    if "_" in cell:
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def read_csv(path: str) -> tuple[dict[str, NDArray[Any]], list[int]]:
    """The columns of a CSV file, and the line on which each row ends."""
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [cell.strip() for cell in next(reader, [])]
            rows, lines = [], []
            for cells in reader:
                if not cells and len(header) == 1:
                    cells = [""]  # noqa: PLW2901  (a line of one empty cell looks blank)
                if not cells or (len(cells) == 1 < len(header) and not cells[0].strip()):
                    continue
                if len(cells) != len(header):
                    raise ValueError(
                        f"{path}: expected {len(header)} cells as in the header; "
                        f"got {len(cells)} in line {reader.line_num}"
                    )
                rows.append(cells)
                lines.append(reader.line_num)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error})") from None
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: expected every column once; got {', '.join(repeated)} again")
    columns: dict[str, NDArray[Any]] = {}
    for j, name in enumerate(header):
        cells = [row[j].strip() for row in rows]
        values = [number(cell) for cell in cells]
        if all(value is not None for value in values):
            columns[name] = np.array(values, dtype=np.float64)
        else:
            columns[name] = np.array(cells)
    return columns, lines


def write_csv(path: Path | str, columns: dict[str, list[Any]]) -> None:
    """Write columns as CSV with a header, whole or not at all; floats with all their digits."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([repr(cell) if isinstance(cell, float) else cell for cell in row])
    write_whole(path, text.getvalue().encode())
