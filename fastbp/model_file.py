"""Model files: parameters and scaling as tensors; network, seed and notes as texts.

Loading reads numbers and JSON; it never runs code.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.files import write_whole
from fastbp.network import Network
from fastbp.scaling import Scaling
from fastbp.tensor_file import Format, encode, interpreting, plain_text, read_tensor_file

__all__ = ["MODEL", "ModelFile", "read_model_file", "write_model_file"]

Array = NDArray[Any]

TEXTS = ("format", "fastbp_version", "network", "dtype", "seed", "metadata")
MODEL = Format("fastbp-model-1", "a fastbp model", TEXTS)


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
    tensors: dict[str, Array]
    scaling: Scaling | None
    metadata: dict[str, Any]


def texts_of(content: ModelFile) -> dict[str, str]:
    """What a model file says in texts, but for its format."""
    return {
        "fastbp_version": importlib.metadata.version("fastbp"),
        "network": json.dumps(content.network.describe()),
        "dtype": content.dtype,
        "seed": str(content.seed),
        "metadata": plain_text("metadata", content.metadata),
    }


def scaling_pairs(network: Network) -> list[tuple[tuple[str, str], int]]:
    """The vectors of a scaling that belong together, and how many numbers each of them has."""
    inputs, targets = ("input_mean", "input_scale"), ("target_mean", "target_scale")
    return [(inputs, network.inputs), (targets, network.outputs)]


def tensors_of(content: ModelFile) -> dict[str, Array]:
    """The tensors of a model file by name: parameters, and ``scaling.input_mean`` and so on."""
    tensors = dict(content.tensors)
    for names, size in scaling_pairs(content.network):
        vectors = [getattr(content.scaling, name, None) for name in names]
        if all(values is not None for values in vectors):  # one alone has no effect
            for name, values in zip(names, vectors, strict=True):
                vector = np.asarray(values, dtype=np.float64)
                tensors[f"scaling.{name}"] = np.broadcast_to(vector, (size,))
    return tensors


def model_of(texts: Mapping[str, str], tensors: Mapping[str, Array]) -> ModelFile:
    """The inverse of `texts_of` and `tensors_of`; raises whatever wrong content leads to."""
    network = Network.from_description(json.loads(texts["network"]))
    dtype, seed = texts["dtype"], texts["seed"]
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype: expected float32 or float64; got {dtype[:40]!r}")
    if not (seed.isascii() and seed.isdigit()):
        raise ValueError(f"seed: expected an integer of at least 0; got {seed[:40]!r}")
    expected = {name: (specification.shape, dtype) for name, specification in network.parameters()}
    parameters = list(expected)
    for names, size in scaling_pairs(network):
        pair = [f"scaling.{name}" for name in names]
        if any(name in tensors for name in pair):
            expected |= dict.fromkeys(pair, ((size,), "float64"))
    if set(tensors) != set(expected):
        raise ValueError("the tensors of the model are not there, or others are")
    for name, (shape, kind) in expected.items():
        found = tensors[name]
        if found.shape != shape or found.dtype != np.dtype(kind):
            raise ValueError(f"{name}: expected {kind} {shape}; got {found.dtype} {found.shape}")
    vectors = {
        name.removeprefix("scaling."): tensors[name] for name in expected if name not in parameters
    }
    return ModelFile(
        network=network,
        dtype=dtype,
        seed=int(seed),
        tensors={name: tensors[name] for name in parameters},
        scaling=Scaling(**vectors) if vectors else None,
        metadata=json.loads(texts["metadata"]),
    )


def write_model_file(path: str | os.PathLike[str], content: ModelFile) -> None:
    """Write a model file, whole or not at all."""
    write_whole(path, encode(MODEL, texts_of(content), tensors_of(content)))


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model file and check that it is whole.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is damaged or is no fastbp model file.
    """
    file = read_tensor_file(path, MODEL)
    with interpreting(file):
        return model_of(file.texts, file.tensors)
