"""Checkpoints: when a training run is written, and the files of runs.

A run's file is a model file with more in it: the model with the parameters that it has now, and
under names of their own what training needs to go on. The file before stays as ``PATH.previous``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fastbp.errors import CheckpointError
from fastbp.files import previous_of, write_whole
from fastbp.model_file import MODEL, TEXTS, ModelFile, model_of, tensors_of, texts_of
from fastbp.registry import finite, positive_integer
from fastbp.tensor_file import (
    Format,
    TensorFile,
    encode,
    interpreting,
    plain_text,
    read_tensor_file,
)

__all__ = [
    "Checkpoint",
    "RunFile",
    "read_model",
    "read_run_file",
    "refuse_foreign",
    "write_run_file",
]

RUN = Format("fastbp-run-1", "a checkpoint of a fastbp run", (*TEXTS, "notes"))
SECONDS = 30.0  # between writes, where no interval is given
# What the names of a run's file begin with, so that a model's tensors and a run's never meet.
MODEL_PREFIX, RUN_PREFIX = "model.", "run."


@dataclass(frozen=True)
class Checkpoint:
    """Where and when the state of a training run is written.

    Parameters
    ----------
    path : str or path-like
        Of the file. The one before stays beside it, as ``PATH.previous``.
    every_epochs : int, optional
        Write when so many epochs have ended since the last write, at least 1.
    every_minutes : float, optional
        Write when so many minutes have passed since the last write, above 0. With both, whichever
        comes first; with neither, when 30 seconds have passed. At the end a run is always written.

    Raises
    ------
    TypeError, ValueError
        For a path that is none, and for intervals out of their range.
    """

    path: str | os.PathLike[str]
    every_epochs: int | None = None
    every_minutes: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            kind = type(self.path).__name__
            raise TypeError(f"path: expected a str or path-like object; got {kind}")
        path = os.fsdecode(self.path)
        if not path:
            raise ValueError("path: expected the name of a file; got an empty one")
        object.__setattr__(self, "path", path)
        if self.every_epochs is not None:
            every = positive_integer("every_epochs", self.every_epochs)
            object.__setattr__(self, "every_epochs", every)
        if self.every_minutes is not None:
            finite("every_minutes", self.every_minutes, 0.0, open_low=True)

    @classmethod
    def resolve(cls, value: Any, argument: str = "checkpoint") -> Checkpoint:
        """The settings that a `checkpoint=` argument means: a path, or the object itself.

        Parameters
        ----------
        value : str, path-like or Checkpoint
        argument : str
            Its name in messages.

        Returns
        -------
        Checkpoint

        Raises
        ------
        TypeError, ValueError
            For anything else, and for an empty path.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, str | os.PathLike):
            kind = type(value).__name__
            raise TypeError(f"{argument}: expected a path or a fastbp Checkpoint; got {kind}")
        if not os.fspath(value):
            raise ValueError(f"{argument}: expected the name of a file; got an empty one")
        return cls(value)

    def is_due(self, epochs_since: int, seconds_since: float) -> bool:
        """Whether a run is to be written now.

        Parameters
        ----------
        epochs_since : int
            Epochs that have ended since the last write, or since the start.
        seconds_since : float
            Seconds that have passed since then.

        Returns
        -------
        bool
        """
        if self.every_epochs is None and self.every_minutes is None:
            return seconds_since >= SECONDS
        return (self.every_epochs is not None and epochs_since >= self.every_epochs) or (
            self.every_minutes is not None and seconds_since >= 60.0 * self.every_minutes
        )


@dataclass
class RunFile:
    """What the file of a run holds.

    Attributes
    ----------
    model : ModelFile
        With the parameters that the run has now.
    tensors : dict of str to array
        Of float32, float64, int64 or uint8, of any shape; they come back to the bit.
    notes : dict
        Plain data that comes back from JSON as it was: dicts with texts as keys, lists, texts,
        finite numbers, True, False and None.
    """

    model: ModelFile
    tensors: dict[str, NDArray[Any]]
    notes: dict[str, Any]


def notes_text(notes: Any) -> str:
    """The notes as JSON, refused where they would come back as something else."""
    text = plain_text("notes", notes)
    if not isinstance(notes, dict) or json.loads(text) != notes:
        raise TypeError(
            "notes: expected a dict that comes back from JSON as it was, so with texts as keys "
            f"and without tuples; got {repr(notes)[:200]}"
        )
    return text


def write_run_file(path: str | os.PathLike[str], content: RunFile) -> None:
    """Write the file of a run, whole or not at all, and keep the one before.

    ``PATH`` is at every moment the old file or the new one; the old one becomes ``PATH.previous``.

    Parameters
    ----------
    path : str or path-like
        Where it is a link, what it points to is replaced, and ``.previous`` lies beside that.
    content : RunFile

    Raises
    ------
    TypeError, ValueError
        For arrays of other dtypes, and for notes that JSON cannot hold; nothing is written.
    OSError
        If the file cannot be written; ``PATH`` stays as it was.
    """
    for name in content.tensors:
        if not isinstance(name, str):
            raise TypeError(f"tensors: expected texts as names; got {name!r}")
    texts = {**texts_of(content.model), "notes": notes_text(content.notes)}
    tensors = {f"{MODEL_PREFIX}{name}": v for name, v in tensors_of(content.model).items()}
    tensors |= {f"{RUN_PREFIX}{name}": v for name, v in content.tensors.items()}
    write_whole(path, encode(RUN, texts, tensors), keep_previous=True)


def with_prefix(tensors: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}


def run_of(file: TensorFile) -> RunFile:
    """What a file of a run holds, checked."""
    with interpreting(file):
        if not all(name.startswith((MODEL_PREFIX, RUN_PREFIX)) for name in file.tensors):
            raise ValueError("there are tensors that no run has")
        notes = json.loads(file.texts["notes"])
        if not isinstance(notes, dict):
            raise ValueError(f"notes: expected a dict; got {type(notes).__name__}")
        model = model_of(file.texts, with_prefix(file.tensors, MODEL_PREFIX))
        return RunFile(model, with_prefix(file.tensors, RUN_PREFIX), notes)


def refuse_foreign(path: str | os.PathLike[str], argument: str = "checkpoint") -> None:
    """Refuse to replace what is no whole file of a run, before there is a run to write.

    Parameters
    ----------
    path : str or path-like
        Looked at with ``PATH.previous``; nothing is refused where there is no file.
    argument : str
        Its name in messages.

    Raises
    ------
    OSError
        For a folder, and a file that may not be read.
    CheckpointError
        For a damaged file of a run, and anything else.
    """
    for each in (path, previous_of(path)):
        try:
            read_tensor_file(each, RUN)
        except FileNotFoundError:
            continue
        except (IsADirectoryError, PermissionError) as error:
            raise type(error)(f"{argument}: {error}") from None
        except CheckpointError as error:
            raise CheckpointError(
                f"{argument}: {error}; it is not replaced: delete it, or choose another name"
            ) from None


def is_whole(path: str) -> bool:
    """Whether a file is there and can be read as the file of a run."""
    try:
        run_of(read_tensor_file(path, RUN))
    except (OSError, CheckpointError):
        return False
    return True


def read_run_file(path: str | os.PathLike[str]) -> RunFile:
    """Read the file of a run; where there is only ``PATH.previous``, read that.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    RunFile
        Its arrays are views of what was read, which is held in memory once.

    Raises
    ------
    FileNotFoundError
        If there is neither file.
    CheckpointError
        If the file is damaged or is no file of a run. The message says whether ``PATH.previous``
        is whole.
    """
    name, previous = os.fsdecode(path), previous_of(path)
    if not os.path.exists(name) and os.path.exists(previous):
        return run_of(read_tensor_file(previous, RUN))
    try:
        return run_of(read_tensor_file(name, RUN))
    except CheckpointError as error:
        if not is_whole(previous):
            raise
        raise CheckpointError(
            f"{error}. The state before it is whole: to go on from that, copy {previous} to {name}"
        ) from None


def read_model(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model, from its own file or from that of a run.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is damaged or is no file of fastbp.
    """
    file = read_tensor_file(path, MODEL, RUN)
    if file.format is RUN:
        return run_of(file).model
    with interpreting(file):
        return model_of(file.texts, file.tensors)
