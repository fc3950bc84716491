"""A network with parameter values: what is predicted with, differentiated and saved."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.arrays import as_output_buffer
from fastbp.backends.choose import in_standard_arithmetic
from fastbp.derivatives import Derivatives
from fastbp.engines import FEW_ROWS, Engines
from fastbp.initializers import initial_values
from fastbp.network import Network
from fastbp.registry import positive_integer
from fastbp.scaling import Scaling
from fastbp.sizes import check_bytes, empty_array
from fastbp.text import table
from fastbp.turns import Line

__all__ = ["Model", "load"]


class Model(Derivatives):
    """A network with its parameters, in host memory.

    Parameters
    ----------
    network : Network
    dtype : str
        ``"float32"`` or ``"float64"``: precision of parameters and of all arithmetic.
    seed : int
        Of the initial values.

    Attributes
    ----------
    network, dtype, seed
        As given.
    scaling : Scaling or None
        Standardisation of inputs and targets, fitted by ``train(standardize=True)``.
    metadata : dict
        JSON-able notes that travel with the saved model (the command line keeps column names here).

    Raises
    ------
    TypeError, ValueError
        For anything but a Network, one of the two dtypes, and an integer seed of at least 0.
    MemoryError
        If this machine's memory cannot hold the parameters.

    Notes
    -----
    The function of a model is ``f(x) = unscale(network(scale(x)))``: `predict`, `vjp` and
    `jacobian` are in the units of X and y. Losses are those that training makes small: with
    standardised targets, in standardised units.
    """

    def __init__(self, network: Network, dtype: str = "float32", seed: int = 0) -> None:
        if not isinstance(network, Network):
            raise TypeError(f"network: expected a Network; got {type(network).__name__}")
        if dtype in (np.float32, np.float64):
            dtype = np.dtype(dtype).name
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype: expected 'float32' or 'float64'; got {dtype!r}")
        self._begin(network, dtype, positive_integer("seed", seed, low=0))
        for i, (name, specification) in enumerate(network.parameters()):
            rows, columns = specification.matrix_shape
            values = initial_values(specification.initializer, self.seed, i, rows, columns)
            self._weights[name][...] = values.reshape(specification.shape)

    def _begin(self, network: Network, dtype: str, seed: int) -> None:
        """Everything but the initial values, which `load` has no use for."""
        self.network = network
        self.dtype = dtype
        self.seed = seed
        self.scaling: Scaling | None = None
        self.metadata: dict[str, Any] = {}
        count = network.parameter_count
        check_bytes("network", count * np.dtype(dtype).itemsize, f"{count:,} parameters")
        self._parameters = np.zeros(count, dtype=dtype)
        self._weights: dict[str, NDArray[Any]] = {}
        self.__setstate__({})

    @property
    def parameters(self) -> NDArray[Any]:
        """All parameters as one flat, writable vector; assigning copies into it."""
        return self._parameters

    @parameters.setter
    def parameters(self, values: Any) -> None:
        array = np.asarray(values)
        if array.shape != self._parameters.shape:
            raise ValueError(
                f"parameters: expected shape {self._parameters.shape}; got {array.shape}"
            )
        self._parameters[...] = array

    @property
    def weights(self) -> Mapping[str, NDArray[Any]]:
        """Named views of `parameters`: ``model.weights["0.weight"]`` is (inputs, units)."""
        return MappingProxyType(self._weights)

    def __repr__(self) -> str:
        return f"<fastbp.Model {self.network} {self.dtype}>"

    def __getstate__(self) -> dict[str, Any]:
        # Engines hold addresses of this process; a copy is not being trained.
        return {**self.__dict__, "_engines": None, "_trainings": None, "_weights": {}}

    def __copy__(self) -> Model:
        return copy.deepcopy(self)  # a shared parameter vector with scalings apart would lie

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._engines = Engines(self.network, self.dtype)
        self._trainings = Line()
        self._weights = self.network.views(self._parameters)

    def summary(self) -> str:
        """Layers, shapes, parameters and bytes as a table."""
        sizes = self.network.sizes
        rows = []
        for i, layer in enumerate(self.network.layers):
            count = sum(specification.size for specification in layer.parameters(sizes[i]))
            rows.append((i, layer.label(), sizes[i], sizes[i + 1], f"{count:,}"))
        lines = table(("", "layer", "inputs", "outputs", "parameters"), rows)
        lines.append(
            f"{self.network.parameter_count:,} parameters, {self.dtype}, "
            f"{self._parameters.nbytes:,} bytes"
        )
        return "\n".join(lines)

    # What a model is for.

    def predict(
        self, X: Any, out: NDArray[Any] | None = None, *, device: str = "cpu"
    ) -> NDArray[Any]:
        """The outputs for some rows: logits for classification losses, else in the target's units.

        Parameters
        ----------
        X : array (rows, inputs)
            Any real dtype and layout.
        out : array (rows, outputs), optional
            Where to write them, of the model's dtype.
        device : str
            As for `fastbp.train`.

        Returns
        -------
        array (rows, outputs)
            Row i depends on row i of X alone, to the bit.

        Raises
        ------
        TypeError, ValueError
            For arrays of the wrong kind or shape, NaN or infinity.
        MemoryError
            If this machine's memory cannot hold what the call needs.
        DeviceError
            For a device that is not to be had, has too little memory, or fails.
        """
        is_few = type(X) is np.ndarray and X.ndim == 2 and len(X) <= FEW_ROWS
        if out is None and is_few and device == "cpu":
            few = self._engines.predict_few(self._parameters, X, self.scaling)
            if few is not None:
                return few
        return self._predict_many(X, out, device)

    @in_standard_arithmetic
    def _predict_many(self, X: Any, out: NDArray[Any] | None, device: str) -> NDArray[Any]:
        """The same for any number of rows."""
        inputs = self._inputs(X)
        rows = inputs.shape[0]
        target = None
        if out is not None:
            target = as_output_buffer(out, rows, self.network.outputs, self.dtype)
        if (
            target is not None
            and target.flags.c_contiguous
            and not np.may_share_memory(inputs, target)
        ):
            outputs = target
        else:
            shape = rows, self.network.outputs
            outputs = empty_array("X", shape, self.dtype, "the outputs for its rows")
        data = {"inputs": inputs, "outputs": outputs}
        sources = self._sources(X)
        run = self._engines.run("predict", self._parameters, data, None, device, sources)
        with run:
            pass
        if self.scaling is not None:
            self.scaling.outputs(outputs)
        if target is not None and outputs is not target:
            target[...] = outputs
            return target
        return outputs

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file, whole or not at all.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        OSError
            If the file cannot be written; an older one of that name stays as it was.
        """
        from fastbp.model_file import ModelFile, write_model_file

        weights = dict(self._weights)
        write_model_file(
            path,
            ModelFile(self.network, self.dtype, self.seed, weights, self.scaling, self.metadata),
        )


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model that `Model.save` wrote, or the one in the checkpoint of a run.

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
        If it is damaged, or neither a model's file nor a run's.
    """
    from fastbp.checkpoint import read_model

    content = read_model(path)
    model = Model.__new__(Model)
    model._begin(content.network, content.dtype, content.seed)
    for name, view in model.weights.items():
        view[...] = content.tensors[name]
    model.scaling = content.scaling
    model.metadata = content.metadata
    return model
