"""``fastbp info [MODEL]``: this installation, or a model file."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version
from typing import Any

from fastbp.backends.choose import devices
from fastbp.commands.common import Formatter, Report, add_common
from fastbp.model import load

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "info",
        help="describe this installation or a model file",
        description="Versions and devices, or the network inside a model file.",
        formatter_class=Formatter,
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a model file")
    add_common(parser)
    parser.set_defaults(run=run)


def shown(value: Any) -> str:
    """A note of a model in words; what is None of several is left out."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items() if each is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def run(options: argparse.Namespace) -> Report:
    """Describe."""
    if options.model is None:
        packages = ("fastbp", "numba", "numpy", "scipy")
        versions = {"python": platform.python_version(), **{p: version(p) for p in packages}}
        found = devices()
        lines = [f"{name} {number}" for name, number in versions.items()]
        data: dict[str, Any] = {"versions": versions, "devices": [d.__dict__ for d in found]}
        return Report("\n".join([*lines, *map(str, found)]), data)
    model = load(options.model)
    lines = [model.summary()]
    if model.scaling is not None:
        lines.append("inputs and targets are standardised inside the model")
    for name, value in model.metadata.items():
        if value is not None:
            lines.append(f"{name}: {shown(value)}")
    data = {
        "network": model.network.describe(),
        "dtype": model.dtype,
        "parameters": model.network.parameter_count,
        "standardised": model.scaling is not None,
        **model.metadata,
    }
    return Report("\n".join(lines), data)
