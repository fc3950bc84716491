"""Runs that survive their command: where they are kept, and how they go on."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastbp.checkpoint import Checkpoint, read_run_file
from fastbp.commands.common import output_path
from fastbp.errors import CheckpointError, DivergenceError

__all__ = ["choose_checkpoint", "explained", "options_of_run", "refuse_other_options"]

# What the bits of a run depend on besides the table, but for the device that `auto` takes.
OF_RUN = (
    "task",
    "layers",
    "activation",
    "loss",
    "label_smoothing",
    "class_weight",
    "optimizer",
    "learning_rate",
    "schedule",
    "clip_norm",
    "ema",
    "epochs",
    "batch_size",
    "seed",
    "patience",
    "test_fraction",
    "validation_fraction",
    "dtype",
    "precision",
)


def choose_checkpoint(options: argparse.Namespace, *others: Path) -> Checkpoint | None:
    """The checkpoint of the options.

    Parameters
    ----------
    options : Namespace
    *others : Path
        Which the command writes besides.

    Returns
    -------
    Checkpoint or None

    Raises
    ------
    OSError, TypeError, ValueError
        For a file that cannot be written or is one of the others, and for what is no interval.
    """
    if options.checkpoint is None:
        for name in ("resume", "checkpoint_every"):
            if getattr(options, name):
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option}: expected --checkpoint FILE as well; got none")
        return None
    path = output_path(options.checkpoint, options.data, "", "--checkpoint")
    if any(path.resolve() == other.resolve() for other in others):
        raise ValueError(f"--checkpoint: {path} is written with the model (--output)")
    if options.checkpoint_every is None:
        return Checkpoint(path)
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?) ?m(?:in)?", options.checkpoint_every)
    if found is None:
        raise ValueError(
            "--checkpoint-every: expected a number of epochs such as 5, or of minutes such as 10m; "
            f"got {options.checkpoint_every!r}"
        )
    epochs, minutes = found.groups()
    return Checkpoint(
        path,
        every_epochs=None if epochs is None else int(epochs),
        every_minutes=None if minutes is None else float(minutes),
    )


def options_of_run(options: argparse.Namespace, **meant: Any) -> dict[str, Any]:
    """The options that tell one run from another, as plain data.

    Parameters
    ----------
    options : Namespace
    **meant
        By the name of an option, what it means where that may be written in several ways.
    """
    return {name: getattr(options, name) for name in OF_RUN} | meant


def refuse_other_options(path: str | os.PathLike[str], notes: dict[str, Any]) -> None:
    """Refuse to go on with a run that had other options.

    Parameters
    ----------
    path : str or path-like
        Of the checkpoint; nothing is refused where there is none yet.
    notes : dict
        The metadata of the model that is to be trained.

    Raises
    ------
    CheckpointError
        For other options, which are named, and for a damaged file.
    """
    try:
        before = described(read_run_file(path).model.metadata)
    except FileNotFoundError:
        return
    now = described(notes)
    # More epochs are allowed with some schedules, which training knows.
    comparable = [name for name in before if name in now and name != "epochs"]
    others = [name for name in comparable if before[name] != now[name]]
    if others:
        stored, given = (
            ", ".join(in_words(name, each[name]) for name in others) for each in (before, now)
        )
        raise CheckpointError(f"--resume: {path} is of a run {stored}; this one is {given}")


def described(metadata: Any) -> dict[str, Any]:
    """The target and the options in the metadata of a model, if it has them."""
    options = metadata.get("options") if isinstance(metadata, dict) else None
    if not isinstance(options, dict):
        return {}
    return {"target": metadata.get("target"), **options}


def in_words(name: str, value: Any) -> str:
    """``with --seed 1``, ``without --loss``."""
    option = f"--{name.replace('_', '-')}"
    return f"without {option}" if value is None else f"with {option} {shlex.quote(str(value))}"


# How a run ends before its end.


def signature(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    """What tells a file from the one that was there before; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


@contextlib.contextmanager
def explained(
    options: argparse.Namespace, checkpoint: Checkpoint | None, output: Path
) -> Iterator[None]:
    """Say what is left of a run that is interrupted or diverges, and how it goes on.

    A KeyboardInterrupt leaves this with words for the user, a DivergenceError with a note.
    """
    path = None if checkpoint is None else checkpoint.path
    model_before, run_before = signature(output), None if path is None else signature(path)

    def is_kept() -> bool:
        """Whether there is a checkpoint that this run wrote or went on from."""
        now = None if path is None else signature(path)
        return now is not None and (options.resume or now != run_before)

    try:
        yield
    except KeyboardInterrupt as error:
        # Of training, and without what it says to users of Python.
        words = [note.partition("; resume=True")[0] for note in getattr(error, "__notes__", ())]
        if signature(output) != model_before:
            words.append(f"the model is in {output}")
        if is_kept():
            words = words or [f"{path} has the run as it was saved last"]
            words.append(f"to go on:\n{command_to_resume(options)}")
        elif not words:
            without = "; with --checkpoint FILE a run is kept" if path is None else " yet"
            words = [f"nothing was saved{without}"]
        raise KeyboardInterrupt("; ".join(words)) from error
    except DivergenceError as error:
        if is_kept():
            error.add_note(
                f"{path} has the last good state that was saved, as a model for `fastbp predict`."
            )
        raise


def command_to_resume(options: argparse.Namespace) -> str:
    """The command line as it was given, with ``--resume``."""
    arguments = list(options.arguments)
    if not options.resume:
        # What follows -- is no option.
        arguments.insert(1 if "--" in arguments else len(arguments), "--resume")
    is_module = Path(sys.argv[0]).parts[-2:] == ("fastbp", "__main__.py")
    program = [sys.executable, "-m", "fastbp"] if is_module else ["fastbp"]
    return shlex.join([*program, *arguments])
