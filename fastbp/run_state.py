"""A training run as a file, and back: what is needed to go on to the same bits.

The state of a run is small because little in it has a memory of its own: the order of the rows and
the masks of dropout are functions of the seed and the epoch, the learning rate is one of the step
and the losses before it. What remains are the parameters, the optimizer's slots and scalars, the
sums of the epoch so far, the history and the best parameters.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.checkpoint import RunFile, read_run_file
from fastbp.datasets import Data
from fastbp.errors import CheckpointError
from fastbp.model import Model
from fastbp.model_file import ModelFile
from fastbp.scaling import Scaling
from fastbp.settings import Settings

__all__ = ["RunState", "describe_data", "read_state", "state_file"]

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
    tensors, notes = file.tensors, file.notes
    try:
        columns = {name: tensors[f"history.{name}"] for name in history_dtype.names or ()}
        history = np.empty(len(columns["epoch"]), dtype=history_dtype)
        for name, values in columns.items():
            history[name] = values
        engine = {
            name.removeprefix("engine."): values
            for name, values in tensors.items()
            if name.startswith("engine.")
        }
        return RunState(
            engine=engine,
            kept=tensors["kept"],
            best=tensors["best"],
            history=history,
            watched=tensors["watched"].tolist(),
            best_epoch=int(notes["best_epoch"]),
            training_seconds=float(notes["training_seconds"]),
            seconds=float(notes["seconds"]),
            stopped_by=notes["stopped_by"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read as a run ({error!r})") from error


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
