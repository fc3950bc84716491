"""Model files: safetensors with the network, the scaling and the version in the metadata.

Loading reads numbers and JSON; it never runs code. A file is written under a temporary name,
flushed to the disk and then renamed, so a reader sees the old file or the new one, whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fastbp.errors import CheckpointError
from fastbp.network import Network
from fastbp.scaling import Scaling

if TYPE_CHECKING:
    from fastbp.model import Model

__all__ = ["load", "save_model"]

FORMAT = "fastbp-model-1"
SCALING = ("input_mean", "input_scale", "target_mean", "target_scale")


def content_digest(tensors: dict[str, NDArray[Any]], described: Iterable[str]) -> str:
    """SHA-256 over everything that a file says: tensors, in the order of their names, and texts."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    for text in described:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model; see `Model.save`."""
    tensors = {name: np.ascontiguousarray(values) for name, values in model.weights.items()}
    if model.scaling is not None:
        for name in SCALING:
            values = getattr(model.scaling, name)
            if values is not None:
                tensors[f"scaling.{name}"] = np.ascontiguousarray(values)
    described = {
        "format": FORMAT,
        "fastbp_version": importlib.metadata.version("fastbp"),
        "network": json.dumps(model.network.describe()),
        "dtype": model.dtype,
        "seed": str(model.seed),
        "metadata": json.dumps(model.metadata),
    }
    described["sha256"] = content_digest(tensors, described.values())
    write_whole(Path(path), save(tensors, metadata=described))


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file by new content, or leave it as it was and raise OSError."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes private files; this one is for sharing
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model that `Model.save` wrote.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Model

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is damaged or is no fastbp model file.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name}: no such file")
    try:
        with safe_open(name, framework="numpy") as file:
            described = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{name}: damaged, or not a safetensors file ({error})") from None
    if described.get("format") != FORMAT:
        raise CheckpointError(f"{name}: a safetensors file, but not a fastbp model")
    stated = described.pop("sha256", "")
    order = ("format", "fastbp_version", "network", "dtype", "seed", "metadata")
    if stated != content_digest(tensors, (described.get(key, "") for key in order)):
        raise CheckpointError(f"{name}: damaged (its content does not match its SHA-256)")
    try:
        return rebuild(described, tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{name}: cannot be read as a model ({error})") from error


def rebuild(described: dict[str, str], tensors: dict[str, NDArray[Any]]) -> Model:
    """The model that metadata and tensors describe."""
    from fastbp.model import Model

    network = Network.from_description(json.loads(described["network"]))
    model = Model(network, dtype=described["dtype"], seed=int(described["seed"]))
    for name, view in model.weights.items():
        values = tensors[name]
        if values.shape != view.shape or values.dtype != view.dtype:
            raise ValueError(f"{name}: expected {view.dtype} {view.shape}")
        view[...] = values
    scaling = {name: tensors.get(f"scaling.{name}") for name in SCALING}
    if scaling["input_mean"] is not None:
        model.scaling = Scaling(**scaling)  # type: ignore[arg-type]
    model.metadata = json.loads(described["metadata"])
    return model
