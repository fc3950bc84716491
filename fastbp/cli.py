"""The command line: ``fastbp train``, ``fastbp predict``, ``fastbp info``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fastbp.commands import info, predict
from fastbp.commands import train as train_command
from fastbp.errors import CheckpointError, DeviceError, DivergenceError

__all__ = ["main"]


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="fastbp",
        description="Train a neural network on a table, predict with it, look at it.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train_command.add_parser(commands)
    predict.add_parser(commands)
    info.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.

    Returns
    -------
    int
        0, or 1 after an error, 2 after wrong usage, 130 after Ctrl-C. Errors are one line.
    """
    options = build_parser().parse_args(arguments)
    try:
        report = options.run(options)
    except KeyboardInterrupt:
        print("fastbp: interrupted; nothing was written", file=sys.stderr)
        return 130
    except (
        CheckpointError,
        DeviceError,
        DivergenceError,
        OSError,
        TypeError,
        ValueError,
    ) as error:
        print(f"fastbp: error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(report.json())
    elif not options.quiet:
        print(report.text)
    return 0
