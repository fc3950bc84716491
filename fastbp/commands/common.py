"""What the commands share."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbp.text import without_nan

__all__ = ["Formatter", "Report", "add_common", "output_path"]


@dataclass(frozen=True)
class Report:
    """What a command has to say: for people, and as JSON."""

    text: str
    data: dict[str, Any]

    def json(self) -> str:
        """The data as JSON, which knows no NaN: null stands for it."""
        return json.dumps(without_nan(self.data), indent=2, allow_nan=False)


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that ends with each option's default, where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options of every command."""
    parser.add_argument("--quiet", action="store_true", help="print nothing (default: a report)")
    parser.add_argument(
        "--json", action="store_true", help="print the report as JSON (default: as text)"
    )


def output_path(given: str | None, data: str, ending: str, option: str = "--output") -> Path:
    """Where a command writes: as given, or in this folder under the data's name.

    Raises
    ------
    OSError, ValueError
        If nothing can be written there, or if it is the data itself; before any work is done.
    """
    path = Path(data_name(data) + ending) if given is None else Path(given)
    if given == "":
        raise ValueError(f"{option}: expected the name of a file; got an empty one")
    if path.is_dir():
        raise IsADirectoryError(f"{option}: expected the name of a file; {path} is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option}: no such folder: {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{option}: cannot write into the folder {path.parent}")
    if path.exists() and os.path.exists(data) and path.samefile(data):
        raise ValueError(f"{option}: {path} is the data itself")
    return path


def data_name(data: str) -> str:
    """The name of a data file without its folder and endings."""
    stem = Path(data).name
    for suffix in (".gz", ".csv", ".npz", ".npy"):
        stem = stem.removesuffix(suffix)
    return stem
