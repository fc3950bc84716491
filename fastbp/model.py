"""A network with parameter values: what is predicted with, differentiated and saved."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.arrays import as_cotangents, as_output_buffer, as_weights
from fastbp.backends.contract import Scalar
from fastbp.engines import FEW_ROWS, Engines
from fastbp.initializers import initial_values
from fastbp.losses import Loss
from fastbp.network import Network
from fastbp.registry import positive_integer
from fastbp.scaling import Scaling, prepare_inputs, prepare_targets
from fastbp.text import table

__all__ = ["Model", "load"]


class Model:
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
        self.network = network
        self.dtype = dtype
        self.seed = positive_integer("seed", seed, low=0)
        self.scaling: Scaling | None = None
        self.metadata: dict[str, Any] = {}
        self._parameters = np.zeros(network.parameter_count, dtype=dtype)
        self._weights: dict[str, NDArray[Any]] = {}
        self._engines = Engines(network, dtype)
        start = 0
        for i, (name, specification) in enumerate(network.parameters()):
            block = self._parameters[start : start + specification.size]
            self._weights[name] = block.reshape(specification.shape)
            rows, columns = specification.matrix_shape
            values = initial_values(specification.initializer, self.seed, i, rows, columns)
            self._weights[name][...] = values.reshape(specification.shape)
            start += specification.size

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
        # Engines hold addresses of this process.
        return {**self.__dict__, "_engines": None, "_weights": {}}

    def __copy__(self) -> Model:
        return copy.deepcopy(self)  # a shared parameter vector with scalings apart would lie

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._engines = Engines(self.network, self.dtype)
        start = 0
        for name, specification in self.network.parameters():
            block = self._parameters[start : start + specification.size]
            self._weights[name] = block.reshape(specification.shape)
            start += specification.size

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

    def _inputs(self, X: Any) -> NDArray[Any]:
        return prepare_inputs(X, self.network.inputs, self.dtype, self.scaling)

    # What a model is for.

    def predict(self, X: Any, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The outputs for some rows: logits for classification losses, else in the target's units.

        Parameters
        ----------
        X : array (rows, inputs)
            Any real dtype and layout.
        out : array (rows, outputs), optional
            Where to write them, of the model's dtype.

        Returns
        -------
        array (rows, outputs)
            Row i depends on row i of X alone, to the bit.

        Raises
        ------
        TypeError, ValueError
            For arrays of the wrong kind or shape, NaN or infinity.
        """
        if out is None and type(X) is np.ndarray and X.ndim == 2 and len(X) <= FEW_ROWS:
            few = self._engines.predict_few(self._parameters, X, self.scaling)
            if few is not None:
                return few
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
            outputs = np.empty((rows, self.network.outputs), dtype=self.dtype)
        data = {"inputs": inputs, "outputs": outputs}
        with self._engines.run("predict", self._parameters, data):
            pass
        if self.scaling is not None:
            self.scaling.outputs(outputs)
        if target is not None and outputs is not target:
            target[...] = outputs
            return target
        return outputs

    def loss(self, X: Any, y: Any, loss: str | Loss = "mse", sample_weight: Any = None) -> float:
        """The loss of some rows: sum_i w_i loss_i / sum_i w_i.

        Parameters
        ----------
        X : array (rows, inputs)
        y : array (rows, outputs), or (rows,) for one output or integer labels
        loss : str or Loss
        sample_weight : array (rows,), optional

        Returns
        -------
        float
            In standardised units where the model has a target scaling.

        Raises
        ------
        TypeError, ValueError
            For arrays of the wrong kind or shape, and for targets that the loss does not allow.
        """
        resolved = Loss.resolve(loss)
        data = self._data(X, y, resolved, sample_weight)
        with self._engines.run("evaluate", self._parameters, data, resolved) as engine:
            sums = engine.scalars
            return float(sums[Scalar.WEIGHTED_LOSS_SUM] / sums[Scalar.WEIGHT_SUM])

    def loss_and_gradient(
        self, X: Any, y: Any, loss: str | Loss = "mse", sample_weight: Any = None
    ) -> tuple[float, NDArray[Any]]:
        """The loss of some rows and its gradient by the parameters, as SciPy's fun(x) -> (f, g).

        Parameters
        ----------
        X, y, loss, sample_weight
            As for `loss`.

        Returns
        -------
        loss : float
        gradient : array (parameters,)
            In the order of `parameters`.

        Raises
        ------
        TypeError, ValueError
            As for `loss`.
        """
        resolved = Loss.resolve(loss)
        data = self._data(X, y, resolved, sample_weight)
        gradient = np.empty_like(self._parameters)
        with self._engines.run("gradient", self._parameters, data, resolved) as engine:
            engine.store_gradient(gradient)
            return float(engine.scalars[Scalar.LOSS]), gradient

    def input_gradient(
        self, X: Any, y: Any, loss: str | Loss = "mse", sample_weight: Any = None
    ) -> NDArray[Any]:
        """The gradient of `loss` by X.

        Parameters
        ----------
        X, y, loss, sample_weight
            As for `loss`.

        Returns
        -------
        array (rows, inputs)

        Raises
        ------
        TypeError, ValueError
            As for `loss`.
        """
        resolved = Loss.resolve(loss)
        data = self._data(X, y, resolved, sample_weight)
        gradient = np.empty_like(data["inputs"])
        data["outputs"] = gradient
        with self._engines.run("input_gradient", self._parameters, data, resolved) as engine:
            gradient *= gradient.dtype.type(1.0 / engine.scalars[Scalar.WEIGHT_SUM])
        return self._by_raw_inputs(gradient)

    def vjp(self, X: Any, v: Any) -> NDArray[Any]:
        """The vector-Jacobian product by the inputs: row i is v_i^T d f(x_i) / d x_i.

        Parameters
        ----------
        X : array (rows, inputs)
        v : array (rows, outputs)
            The cotangent of each row's outputs.

        Returns
        -------
        array (rows, inputs)

        Raises
        ------
        TypeError, ValueError
            For arrays of the wrong kind or shape, NaN or infinity.
        """
        inputs = self._inputs(X)
        rows, outputs = inputs.shape[0], self.network.outputs
        cotangents = as_cotangents(v, rows, outputs, self.dtype)
        return self._by_raw_inputs(self._vjp(inputs, self._by_raw_outputs(cotangents)))

    def jacobian(self, X: Any) -> NDArray[Any]:
        """The derivatives of the outputs by the inputs, for every row.

        Parameters
        ----------
        X : array (rows, inputs)

        Returns
        -------
        array (rows, outputs, inputs)

        Raises
        ------
        TypeError, ValueError
            For arrays of the wrong kind or shape, NaN or infinity.
        """
        inputs = self._inputs(X)
        rows, outputs = inputs.shape[0], self.network.outputs
        jacobian = np.empty((rows, outputs, inputs.shape[1]), dtype=self.dtype)
        for j in range(outputs):
            unit = np.zeros((rows, outputs), dtype=self.dtype)
            unit[:, j] = 1
            gradient = self._vjp(inputs, self._by_raw_outputs(unit))
            jacobian[:, j, :] = self._by_raw_inputs(gradient)
        return jacobian

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
        from fastbp.checkpoint import ModelFile, write_model_file

        weights = dict(self._weights)
        write_model_file(
            path,
            ModelFile(self.network, self.dtype, self.seed, weights, self.scaling, self.metadata),
        )

    # Helpers.

    def _data(
        self, X: Any, y: Any, loss: Loss, sample_weight: Any
    ) -> dict[str, NDArray[Any] | None]:
        """The checked data tensors of a loss."""
        inputs = self._inputs(X)
        rows, outputs = inputs.shape[0], self.network.outputs
        return {
            "inputs": inputs,
            "targets": prepare_targets(y, loss, rows, outputs, self.dtype, self.scaling),
            "weights": as_weights(sample_weight, rows, self.dtype),
        }

    def _vjp(self, inputs: NDArray[Any], cotangents: NDArray[Any]) -> NDArray[Any]:
        gradient = np.empty_like(inputs)
        data = {"inputs": inputs, "cotangent": cotangents, "outputs": gradient}
        with self._engines.run("vjp", self._parameters, data):
            pass
        return gradient

    def _by_raw_inputs(self, gradient: NDArray[Any]) -> NDArray[Any]:
        """Chain rule through the input scaling, in place."""
        if self.scaling is not None:
            gradient[...] = gradient / self.scaling.input_scale
        return gradient

    def _by_raw_outputs(self, cotangents: NDArray[Any]) -> NDArray[Any]:
        """Chain rule through the target scaling."""
        if self.scaling is None or self.scaling.target_scale is None:
            return cotangents
        return np.ascontiguousarray(cotangents * self.scaling.target_scale, dtype=self.dtype)


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
    from fastbp.checkpoint import read_model_file

    content = read_model_file(path)
    model = Model(content.network, dtype=content.dtype, seed=content.seed)
    for name, view in model.weights.items():
        view[...] = content.tensors[name]
    model.scaling = content.scaling
    model.metadata = content.metadata
    return model
