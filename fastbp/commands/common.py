"""What the commands share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Formatter", "Report", "add_common", "output_path"]


@dataclass(frozen=True)
class Report:
    """What a command has to say: for people, and as JSON."""

    text: str
    data: dict[str, Any]


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


def output_path(given: str | None, data: str, ending: str) -> Path:
    """Where a command writes: as given, or in this folder under the data's name."""
    if given is not None:
        return Path(given)
    stem = Path(data).name
    for suffix in (".gz", ".csv", ".npz", ".npy"):
        stem = stem.removesuffix(suffix)
    return Path(stem + ending)
