"""``fastbp warmup``: compile ahead, so that no later process has to."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from fastbp.activations import Activation
from fastbp.commands.common import Formatter, Report, add_common
from fastbp.losses import Loss
from fastbp.optimizers import Optimizer

__all__ = ["add_parser"]

DTYPES = ("float32", "float64")
FAMILIES: dict[str, Any] = {"activations": Activation, "losses": Loss, "optimizers": Optimizer}


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "warmup",
        help="compile all kernels of the processor into the cache",
        description="Compile the kernels of the named settings, all of them by default, for this "
        "processor, and keep them on disk. Later processes read them from there and start at once. "
        "Those of a GPU are compiled, and kept, when a network first runs there.",
        formatter_class=Formatter,
    )
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="separated by commas")
    for option, family in FAMILIES.items():
        parser.add_argument(
            f"--{option}", default="all", help=f"all, or some of {', '.join(family.names())}"
        )
    add_common(parser)
    parser.set_defaults(run=run)


def chosen(option: str, value: str, names: Any) -> list[str]:
    """The names in an option's value.

    Raises
    ------
    ValueError
        For a name that is not there.
    """
    if value == "all":
        return list(names)
    wanted = [name.strip() for name in value.split(",")]
    for name in wanted:
        if name not in names:
            raise ValueError(f"--{option}: expected some of {', '.join(names)}; got {name!r}")
    return wanted


def run(options: argparse.Namespace) -> Report:
    """Compile."""
    from fastbp.warmup import warm_up

    members = {
        option: [
            family.resolve(name)
            for name in chosen(option, getattr(options, option), family.names())
        ]
        for option, family in FAMILIES.items()
    }
    dtypes = chosen("dtypes", options.dtypes, DTYPES)
    started = time.perf_counter()

    def show(name: str) -> None:
        if not options.quiet and sys.stderr.isatty():
            print(f"\rcompiling for {name:<40}", end="", file=sys.stderr, flush=True)

    kernels = warm_up(
        dtypes, members["activations"], members["losses"], members["optimizers"], show
    )
    if not options.quiet and sys.stderr.isatty():
        print("\r" + " " * 60, end="\r", file=sys.stderr)
    seconds = time.perf_counter() - started
    text = f"{kernels} kernels ready in {seconds:.1f} s"
    return Report(text, {"kernels": kernels, "seconds": seconds})
