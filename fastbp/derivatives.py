"""The loss of a model on some rows, and derivatives by its parameters and inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.arrays import as_cotangents, as_weights
from fastbp.backends.choose import host_array, in_standard_arithmetic
from fastbp.backends.contract import Scalar
from fastbp.engines import Engines
from fastbp.losses import Loss
from fastbp.network import Network
from fastbp.scaling import Scaling, prepare_inputs, prepare_targets
from fastbp.sizes import empty_array

__all__ = ["Derivatives"]


class Derivatives:
    """What a model has of losses and derivatives."""

    network: Network
    dtype: str
    scaling: Scaling | None
    _parameters: NDArray[Any]
    _engines: Engines

    @in_standard_arithmetic
    def loss(
        self,
        X: Any,
        y: Any,
        loss: str | Loss = "mse",
        sample_weight: Any = None,
        *,
        device: str = "cpu",
    ) -> float:
        """The loss of some rows: sum_i w_i loss_i / sum_i w_i.

        Parameters
        ----------
        X : array (rows, inputs)
        y : array (rows, outputs), or (rows,) for one output or integer labels
        loss : str or Loss
        sample_weight : array (rows,), optional
            As for `fastbp.train`.
        device : str
            As for `fastbp.train`.

        Returns
        -------
        float
            In standardised units where the model has a target scaling.

        Raises
        ------
        TypeError, ValueError
            For arrays of the wrong kind or shape, and for targets that the loss does not allow.
        MemoryError
            If this machine's memory cannot hold what the call needs.
        DeviceError
            For a device that is not to be had, has too little memory, or fails.
        """
        resolved = Loss.resolve(loss)
        data = self._data(X, y, resolved, sample_weight)
        sources = self._sources(X, y)
        run = self._engines.run("evaluate", self._parameters, data, resolved, device, sources)
        with run as engine:
            sums = engine.scalars
            return float(sums[Scalar.WEIGHTED_LOSS_SUM] / sums[Scalar.WEIGHT_SUM])

    @in_standard_arithmetic
    def loss_and_gradient(
        self,
        X: Any,
        y: Any,
        loss: str | Loss = "mse",
        sample_weight: Any = None,
        *,
        device: str = "cpu",
    ) -> tuple[float, NDArray[Any]]:
        """The loss of some rows and its gradient by the parameters, as SciPy's fun(x) -> (f, g).

        Parameters
        ----------
        X, y, loss, sample_weight, device
            As for `loss`.

        Returns
        -------
        loss : float
        gradient : array (parameters,)
            In the order of `parameters`.

        Raises
        ------
        TypeError, ValueError, MemoryError, DeviceError
            As for `loss`.
        """
        resolved = Loss.resolve(loss)
        data = self._data(X, y, resolved, sample_weight)
        gradient = np.empty_like(self._parameters)
        sources = self._sources(X, y)
        run = self._engines.run("gradient", self._parameters, data, resolved, device, sources)
        with run as engine:
            engine.store_gradient(gradient)
            return float(engine.scalars[Scalar.LOSS]), gradient

    @in_standard_arithmetic
    def input_gradient(
        self,
        X: Any,
        y: Any,
        loss: str | Loss = "mse",
        sample_weight: Any = None,
        *,
        device: str = "cpu",
    ) -> NDArray[Any]:
        """The gradient of `loss` by X.

        Parameters
        ----------
        X, y, loss, sample_weight, device
            As for `loss`.

        Returns
        -------
        array (rows, inputs)

        Raises
        ------
        TypeError, ValueError, MemoryError, DeviceError
            As for `loss`.
        """
        resolved = Loss.resolve(loss)
        data = self._data(X, y, resolved, sample_weight)
        gradient = np.empty_like(data["inputs"])
        data["outputs"] = gradient
        sources = self._sources(X, y)
        run = self._engines.run("input_gradient", self._parameters, data, resolved, device, sources)
        with run as engine:
            gradient *= gradient.dtype.type(1.0 / engine.scalars[Scalar.WEIGHT_SUM])
        return self._by_raw_inputs(gradient)

    @in_standard_arithmetic
    def vjp(self, X: Any, v: Any, *, device: str = "cpu") -> NDArray[Any]:
        """The vector-Jacobian product by the inputs: row i is v_i^T d f(x_i) / d x_i.

        Parameters
        ----------
        X : array (rows, inputs)
        v : array (rows, outputs)
            The cotangent of each row's outputs.
        device : str
            As for `fastbp.train`.

        Returns
        -------
        array (rows, inputs)

        Raises
        ------
        TypeError, ValueError
            For arrays of the wrong kind or shape, NaN or infinity.
        MemoryError
            If this machine's memory cannot hold what the call needs.
        DeviceError
            For a device that is not to be had, has too little memory, or fails.
        """
        inputs = self._inputs(X)
        rows, outputs = inputs.shape[0], self.network.outputs
        cotangents = as_cotangents(host_array(v), rows, outputs, self.dtype)
        gradient = np.empty_like(inputs)
        data = {
            "inputs": inputs,
            "cotangent": self._by_raw_outputs(cotangents),
            "outputs": gradient,
        }
        sources = self._sources(X, cotangent=v)
        with self._engines.run("vjp", self._parameters, data, None, device, sources):
            pass
        return self._by_raw_inputs(gradient)

    @in_standard_arithmetic
    def jacobian(self, X: Any, *, device: str = "cpu") -> NDArray[Any]:
        """The derivatives of the outputs by the inputs, for every row.

        Parameters
        ----------
        X : array (rows, inputs)
        device : str
            As for `fastbp.train`.

        Returns
        -------
        array (rows, outputs, inputs)

        Raises
        ------
        TypeError, ValueError
            For arrays of the wrong kind or shape, NaN or infinity.
        MemoryError
            If this machine's memory cannot hold what the call needs.
        DeviceError
            For a device that is not to be had, has too little memory, or fails.
        """
        inputs = self._inputs(X)
        rows, outputs = inputs.shape[0], self.network.outputs
        shape = rows, outputs, inputs.shape[1]
        jacobian = empty_array("X", shape, self.dtype, "the Jacobians of its rows")
        gradient = np.empty_like(inputs)

        def unit(j: int) -> NDArray[Any]:
            """The cotangents of output j."""
            cotangents = np.zeros((rows, outputs), dtype=self.dtype)
            cotangents[:, j] = 1
            return self._by_raw_outputs(cotangents)

        data = {"inputs": inputs, "cotangent": unit(0), "outputs": gradient}
        sources = self._sources(X)
        with self._engines.run("vjp", self._parameters, data, None, device, sources) as engine:
            for j in range(outputs):
                if j > 0:  # everything else is where it was for the first one
                    engine.bind("data.cotangent", unit(j))
                    engine.run_all(rows)
                jacobian[:, j, :] = self._by_raw_inputs(gradient)
        return jacobian

    # Helpers.

    def _inputs(self, X: Any) -> NDArray[Any]:
        return prepare_inputs(host_array(X), self.network.inputs, self.dtype, self.scaling)

    def _data(self, X: Any, y: Any, loss: Loss, sample_weight: Any) -> dict[str, Any]:
        """The checked data tensors of a loss."""
        inputs = self._inputs(X)
        rows, outputs = inputs.shape[0], self.network.outputs
        return {
            "inputs": inputs,
            "targets": prepare_targets(
                host_array(y), loss, rows, outputs, self.dtype, self.scaling
            ),
            "weights": as_weights(host_array(sample_weight), rows, self.dtype),
        }

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

    def _sources(self, X: Any, y: Any = None, cotangent: Any = None) -> dict[str, Any]:
        """What the data tensors were made from, where no scaling changed it."""
        if self.scaling is not None:
            return {}
        return {"inputs": X, "targets": y, "cotangent": cotangent}
