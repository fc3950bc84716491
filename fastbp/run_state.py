"""A training run as a file, and back: what is needed to go on to the same bits.

The state of a run is small because little in it has a memory of its own: the order of the rows and
the masks of dropout are functions of the seed and the epoch, the learning rate is one of the step
and the losses before it. What remains are the parameters, the optimizer's slots and scalars, the
sums of the epoch so far, the history and the best parameters.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.contract import Scalar
from fastbp.checkpoint import RunFile, read_run_file
from fastbp.datasets import Data
from fastbp.errors import CheckpointError
from fastbp.model import Model
from fastbp.model_file import ModelFile
from fastbp.scaling import Scaling
from fastbp.settings import Settings

__all__ = ["RunState", "check_engine", "describe_data", "read_state", "state_file"]

ENDINGS = ("epochs", "patience", "callback")

# Of the weights of rows only the product is known.
DATA_IN_WORDS = {"sample_weight": "sample_weight or class_weight"}


@dataclass(frozen=True)
class RunState:
    """Where a run stands, as plain data.

    Attributes
    ----------
    engine : dict of str to array
        What `Engine.read_state` gave.
    kept, best : array (parameters,)
        Of the last finished epoch, and of the best one.
    history : structured array
        A row for each finished epoch.
    watched : list of float
        What early stopping and schedules watched.
    best_epoch : int
    training_seconds, seconds : float
        Of the training passes, and of all.
    stopped_by : str or None
        How the run ended, if it has.
    """

    engine: dict[str, NDArray[Any]]
    kept: NDArray[Any]
    best: NDArray[Any]
    history: NDArray[np.void]
    watched: list[float]
    best_epoch: int
    training_seconds: float
    seconds: float
    stopped_by: str | None


def digest(array: NDArray[Any] | None) -> str | None:
    """SHA-256 of an array's numbers, its dtype and its shape."""
    if array is None:
        return None
    found = hashlib.sha256(f"{array.dtype.str} {array.shape};".encode())
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def plain(described: dict[str, Any]) -> dict[str, Any]:
    """What comes back of plain data from JSON."""
    found: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return found


def describe_data(training: Data, held_out: Data | None) -> dict[str, str | None]:
    """What tells the data of a run from others, by the names of the arguments."""
    described = {
        "X": digest(training.inputs),
        "y": digest(training.targets),
        "sample_weight": digest(training.weights),
        "validation": None,
    }
    if held_out is not None:
        parts = (held_out.inputs, held_out.targets, held_out.weights)
        described["validation"] = " ".join(digest(part) or "-" for part in parts)
    return described


def state_file(
    model: Model,
    scaling: Scaling | None,
    state: RunState,
    settings: Settings,
    data: dict[str, str | None],
) -> RunFile:
    """A state as the content of a checkpoint."""
    tensors = {f"engine.{name}": values for name, values in state.engine.items()}
    tensors |= {"kept": state.kept, "best": state.best, "watched": np.array(state.watched)}
    for name in state.history.dtype.names or ():
        tensors[f"history.{name}"] = np.ascontiguousarray(state.history[name])
    return RunFile(
        model=ModelFile(
            model.network,
            model.dtype,
            model.seed,
            model.network.views(state.kept),
            scaling,
            model.metadata,
        ),
        tensors=tensors,
        notes={
            "settings": plain(settings.describe()),
            "data": data,
            "best_epoch": state.best_epoch,
            "training_seconds": state.training_seconds,
            "seconds": state.seconds,
            "stopped_by": state.stopped_by,
        },
    )


def read_state(
    model: Model, settings: Settings, data: dict[str, str | None], history_dtype: np.dtype[Any]
) -> RunState | None:
    """The state in the settings' checkpoint; None where there is no file yet.

    Raises
    ------
    CheckpointError
        If the file is damaged, or is of a run with another network, other data or other settings.
    """
    assert settings.checkpoint is not None
    path = settings.checkpoint.path
    try:
        file = read_run_file(path)
    except FileNotFoundError:
        return None
    refuse_difference(f"{path}", file, model, settings, data)
    try:
        return state_of(file, model, history_dtype)
    except KeyError as error:
        raise CheckpointError(f"{path}: cannot be read as a run (it has no {error})") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path}: cannot be read as a run ({error})") from error


def state_of(file: RunFile, model: Model, history_dtype: np.dtype[Any]) -> RunState:
    """The state that a file holds; raises whatever wrong content leads to."""
    tensors, notes = file.tensors, file.notes
    columns = {name: tensors[f"history.{name}"] for name in history_dtype.names or ()}
    epochs = len(columns["epoch"])
    for name, values in columns.items():
        kind = history_dtype[name]
        check_array(f"history.{name}", values, kind.base, (epochs, *kind.shape))
    history = np.empty(epochs, dtype=history_dtype)
    for name, values in columns.items():
        history[name] = values
    if not np.array_equal(history["epoch"], np.arange(1, epochs + 1)):
        raise ValueError("history.epoch: expected 1, 2 and so on")
    check_array("watched", tensors["watched"], np.dtype(np.float64), (epochs,))
    for name in ("kept", "best"):
        check_array(name, tensors[name], np.dtype(model.dtype), model.parameters.shape)
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"{name}: expected finite numbers")
    seconds = [float(notes[name]) for name in ("training_seconds", "seconds")]
    if not all(0.0 <= each < math.inf for each in seconds):
        raise ValueError(f"seconds: expected finite numbers of at least 0; got {seconds}")
    best_epoch, stopped_by = notes["best_epoch"], notes["stopped_by"]
    if type(best_epoch) is not int or not min(epochs, 1) <= best_epoch <= epochs:
        raise ValueError(f"best_epoch: expected one of {epochs}; got {in_short(best_epoch)}")
    if stopped_by not in (None, *ENDINGS) or (stopped_by and not epochs):
        raise ValueError(f"stopped_by: expected how a run ends; got {in_short(stopped_by)}")
    prefix = "engine."
    return RunState(
        engine={
            name.removeprefix(prefix): values
            for name, values in tensors.items()
            if name.startswith(prefix)
        },
        kept=tensors["kept"],
        best=tensors["best"],
        history=history,
        watched=tensors["watched"].tolist(),
        best_epoch=best_epoch,
        training_seconds=seconds[0],
        seconds=seconds[1],
        stopped_by=stopped_by,
    )


def in_short(value: Any) -> str:
    """The beginning of a value that anyone may have written."""
    return repr(value)[:80]


def check_array(
    name: str, found: NDArray[Any], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> None:
    """Refuse an array of another dtype or shape."""
    if found.dtype != dtype or found.shape != shape:
        raise ValueError(f"{name}: expected {dtype} {shape}; got {found.dtype} {found.shape}")


def check_engine(
    state: RunState, own: dict[str, NDArray[Any]], settings: Settings, steps_per_epoch: int
) -> None:
    """Refuse what an engine of this run cannot have written: kernels believe what they are given.

    Parameters
    ----------
    state : RunState
    own : dict of str to array
        What the run's own engine says of itself.
    settings : Settings
    steps_per_epoch : int

    Raises
    ------
    CheckpointError
    """
    assert settings.checkpoint is not None
    epochs = len(state.history)
    try:
        if set(state.engine) != set(own):
            raise ValueError("the tensors of its engine are not there, or others are")
        for name, values in own.items():
            check_array(f"engine.{name}", state.engine[name], values.dtype, values.shape)
        step = float(state.engine["scalars"][Scalar.STEP])
        last = epochs * steps_per_epoch if state.stopped_by else (epochs + 1) * steps_per_epoch
        if not (epochs * steps_per_epoch <= step <= last and step.is_integer()):
            raise ValueError(f"step: expected one after epoch {epochs}; got {step:g}")
        if epochs > settings.epochs:
            raise ValueError(f"epochs: expected at most {settings.epochs}; got {epochs}")
    except ValueError as error:
        path = settings.checkpoint.path
        raise CheckpointError(f"{path}: cannot be read as a run ({error})") from error


def refuse_difference(
    path: str, file: RunFile, model: Model, settings: Settings, data: dict[str, str | None]
) -> None:
    """Refuse to go on with a run that was another one."""
    stored, stored_data = file.notes.get("settings"), file.notes.get("data")
    now = plain(settings.describe())
    if not (isinstance(stored, dict) and isinstance(stored_data, dict)):
        raise CheckpointError(f"{path}: cannot be read as a run (it says nothing of its settings)")
    if file.model.network != model.network or file.model.dtype != model.dtype:
        raise CheckpointError(
            f"resume: {path} is of another network: {file.model.network} in {file.model.dtype}; "
            f"this is {model.network} in {model.dtype}"
        )
    for name, value in now.items():
        if stored.get(name) == value or (name == "epochs" and may_be_longer(stored, settings)):
            continue
        raise CheckpointError(
            f"resume: {path} is of a run with {name}={in_words(stored.get(name))}; "
            f"this one has {in_words(value)}"
        )
    others = [DATA_IN_WORDS.get(n, n) for n, value in data.items() if stored_data.get(n) != value]
    if others:
        raise CheckpointError(
            f"resume: {path} is of a run with another {', another '.join(others)}"
        )


def may_be_longer(stored: dict[str, Any], settings: Settings) -> bool:
    """Whether a run may go on for more epochs: if its schedule is the same however long it is."""
    known = isinstance(stored.get("epochs"), int) and settings.epochs > stored["epochs"]
    return known and not settings.schedule.depends_on_length


def in_words(value: Any) -> str:
    """A described setting for a message: ``adam(learning_rate=0.1)``."""
    if isinstance(value, dict) and "name" in value:
        inside = ", ".join(f"{key}={each}" for key, each in value.items() if key != "name")
        return f"{value['name']}({inside})"
    return repr(value)
