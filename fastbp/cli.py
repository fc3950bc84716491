"""The command line: ``fastbp train``, ``predict``, ``info``, ``warmup``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version

from fastbp.commands import info, predict, warmup
from fastbp.commands import train as train_command
from fastbp.errors import CheckpointError, DeviceError, DivergenceError

__all__ = ["main"]


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="fastbp",
        description="Train a neural network on a table, predict with it, look at it.",
    )
    parser.add_argument("--version", action="version", version=f"fastbp {version('fastbp')}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    train_command.add_parser(commands)
    predict.add_parser(commands)
    info.add_parser(commands)
    warmup.add_parser(commands)
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
        0, or 1 after an error, 2 after wrong usage, 130 after Ctrl-C. Errors are one line; after
        Ctrl-C the command that goes on with a run that was kept is another.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else arguments
    if options.run is None:
        parser.print_help()
        return 2
    try:
        report = options.run(options)
    except KeyboardInterrupt as interrupt:
        print(f"fastbp: interrupted; {str(interrupt) or 'nothing was written'}", file=sys.stderr)
        return 130
    except (
        CheckpointError,
        DeviceError,
        DivergenceError,
        OSError,
        TypeError,
        ValueError,
    ) as error:
        words = [in_options(str(error)), *getattr(error, "__notes__", ())]
        print(f"fastbp: error: {' '.join(words)}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"fastbp: error: out of memory: {error}", file=sys.stderr)
        return 1
    try:
        if options.json:
            print(report.json(), flush=True)
        elif not options.quiet:
            print(report.text, flush=True)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


# Messages of the library name its arguments; users of the command line know them as options.
OPTIONS = {
    "units": "--layers",
    "activation": "--activation",
    "epochs": "--epochs",
    "batch_size": "--batch-size",
    "patience": "--patience",
    "device": "--device",
    "precision": "--precision",
    "threads": "--threads",
    "ema": "--ema",
    "class_weight": "--class-weight",
    "label_smoothing": "--label-smoothing",
    "checkpoint": "--checkpoint",
    "every_epochs": "--checkpoint-every",
    "every_minutes": "--checkpoint-every",
    "resume": "--resume",
}


def in_options(message: str) -> str:
    """A message with the name of an argument replaced by that of the option."""
    name, colon, rest = message.partition(":")
    if name == "resume":  # which speaks of another argument
        rest = re.sub(r"(?<= of a run with )\w+(?==)", lambda m: OPTIONS.get(m[0], m[0]), rest)
    return OPTIONS.get(name, name) + colon + rest
