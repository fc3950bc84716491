"""Model files: safetensors with the network, the scaling and the version in the metadata.

Loading reads numbers and JSON; it never runs code. A file is written under a temporary name,
flushed to the disk and then renamed, so a reader sees the old file or the new one, whole.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fastbp.errors import CheckpointError
from fastbp.files import check_readable, write_whole
from fastbp.network import Network
from fastbp.scaling import Scaling

__all__ = ["ModelFile", "read_model_file", "write_model_file"]

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


@dataclass
class ModelFile:
    """What a model file holds, as plain data.

    Attributes
    ----------
    network : Network
    dtype : str
    seed : int
    tensors : dict of str to array
        The parameters by name.
    scaling : Scaling or None
    metadata : dict
        JSON-able notes.
    """

    network: Network
    dtype: str
    seed: int
    tensors: dict[str, NDArray[Any]]
    scaling: Scaling | None
    metadata: dict[str, Any]


def write_model_file(path: str | os.PathLike[str], content: ModelFile) -> None:
    """Write a model file, whole or not at all."""
    tensors = {name: np.ascontiguousarray(values) for name, values in content.tensors.items()}
    if content.scaling is not None:
        for name in SCALING:
            values = getattr(content.scaling, name)
            if values is not None:
                tensors[f"scaling.{name}"] = np.ascontiguousarray(values)
    try:
        notes = json.dumps(content.metadata)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata: expected plain data that JSON can hold; {error}") from None
    described = {
        "format": FORMAT,
        "fastbp_version": importlib.metadata.version("fastbp"),
        "network": json.dumps(content.network.describe()),
        "dtype": content.dtype,
        "seed": str(content.seed),
        "metadata": notes,
    }
    described["sha256"] = content_digest(tensors, described.values())
    write_whole(path, save(tensors, metadata=described))


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model file and check that it is whole.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is damaged or is no fastbp model file.
    """
    name = os.fspath(path)
    check_readable(name)
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
        network = Network.from_description(json.loads(described["network"]))
        dtype = described["dtype"]
        for key, specification in network.parameters():
            found = tensors[key]
            if found.shape != specification.shape or found.dtype != np.dtype(dtype):
                raise ValueError(f"{key}: expected {dtype} {specification.shape}")
        scaling = {key: tensors.pop(f"scaling.{key}", None) for key in SCALING}
        return ModelFile(
            network=network,
            dtype=dtype,
            seed=int(described["seed"]),
            tensors=tensors,
            scaling=None if scaling["input_mean"] is None else Scaling(**scaling),
            metadata=json.loads(described["metadata"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{name}: cannot be read as a model ({error})") from error
