"""Predictions for a few rows, with as little overhead as one call of a compiled function allows.

The ordinary path checks, scales and copies with NumPy, binds the engine's tables from Python and
frees the GIL: tens of microseconds, which matters where a row at a time is asked for (controllers,
right-hand sides, optimizers in the loop). Here all of that is one compiled function over the tables
of an engine of its own. It runs the same kernels, so the bits are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from fastbp.backends.contract import Batch
from fastbp.backends.cpu.compiler import compile_function, number_type
from fastbp.backends.cpu.engine import Engine
from fastbp.backends.cpu.intrinsics import call_kernel
from fastbp.scaling import Scaling

__all__ = ["FewRows"]

POSITION, ROWS, DATA_ROWS = int(Batch.POSITION), int(Batch.ROWS), int(Batch.DATA_ROWS)
ORDER_BEGIN, ORDER_END = int(Batch.ORDER_BEGIN), int(Batch.ORDER_END)
DONE, PARAMETERS_CHANGED, NOT_FINITE = 0, 1, 2

# The function keeps the GIL, which also keeps other threads out of the engine's buffers; so it is
# only for calls of a few microseconds.
MOST_MULTIPLY_ADDS = 400_000


def predict_rows(real, sources):
    """Make ``predict_rows`` for a number type."""
    bits = types.int32 if real == types.float32 else types.int64

    def predict_rows(
        parameters, loaded, inputs, outputs, staged, scaling, propagation, arguments, places, batch
    ):
        """Predict; return DONE, or what keeps this from doing so, with nothing written.

        Parameters
        ----------
        parameters, loaded : (parameters,)
            The model's, and those that the engine holds; told apart by their bits.
        inputs, outputs : (rows, inputs), (rows, outputs)
        staged : (most rows, inputs)
            The scaled inputs.
        scaling : float64 (4, features)
            Input mean and scale, target mean and scale, or nothing where there is none.
        propagation, arguments, batch
            The engine's tables.
        places : int64 (2,)
            Where the arguments name the data's inputs and outputs.
        """
        sources  # noqa: B018
        if not np.array_equal(parameters.view(bits), loaded.view(bits)):
            return PARAMETERS_CHANGED
        rows, features = inputs.shape
        scaled = scaling.shape[0] == 4
        for i in range(rows):
            for j in range(features):
                value = inputs[i, j]
                if scaled:
                    value = real((types.float64(value) - scaling[0, j]) / scaling[1, j])
                if not np.isfinite(value):
                    return NOT_FINITE
                staged[i, j] = value
        batch[ROWS] = batch[DATA_ROWS] = rows
        arguments[places[0]] = staged.ctypes.data
        arguments[places[0] + 1] = rows
        arguments[places[1]] = outputs.ctypes.data
        arguments[places[1] + 1] = rows
        for s in range(propagation.shape[0]):
            call_kernel(propagation[s, 0], propagation[s, 1], 0, rows)
        if scaled:
            for i in range(rows):
                for j in range(outputs.shape[1]):
                    wide = types.float64(outputs[i, j]) * scaling[3, j] + scaling[2, j]
                    outputs[i, j] = real(wide)
        return DONE

    return predict_rows


class FewRows:
    """The prediction of up to a few rows by a model.

    Parameters
    ----------
    engine : Engine
        Of a prediction plan; it is used for nothing else.
    parameters : array
        The model's flat parameter vector.
    """

    def __init__(self, engine: Engine, parameters: NDArray[Any]) -> None:
        plan = engine.plan
        self.engine = engine
        self.dtype = parameters.dtype
        self.features, self.outputs = plan.network.inputs, plan.network.outputs
        work = max(plan.network.parameter_count, 1)
        self.most_rows = min(plan.segment_rows, MOST_MULTIPLY_ADDS // work)
        self.loaded = np.full_like(parameters, np.nan)
        self.staged = np.zeros((plan.segment_rows, self.features), dtype=self.dtype)
        self.no_scaling = np.zeros((0, 1))
        self.scaling: Scaling | None = None
        self.scaling_table = self.no_scaling
        real = number_type(plan.dtype)
        flat, matrix = real[::1], real[:, ::1]
        signature = types.int64(
            flat, flat, matrix, matrix, matrix, types.float64[:, ::1],
            types.int64[:, ::1], types.int64[::1], types.int64[::1], types.int64[::1],
        )  # fmt: skip
        self.function = compile_function(predict_rows, plan.dtype, signature)
        positions = engine.data_positions
        for name, columns in (("data.inputs", self.features), ("data.outputs", self.outputs)):
            (place,) = positions[name]
            engine.argument_table[place + 2] = columns
        places = (positions["data.inputs"][0], positions["data.outputs"][0])
        self.tables = (
            engine.propagation,
            engine.argument_table,
            np.array(places, dtype=np.int64),
            engine.batch,
        )
        index = engine.buffers.vector("row_index")
        index[:] = np.arange(index.size)
        engine.batch[[POSITION, ORDER_BEGIN, ORDER_END]] = 0, 0, index.size

    def __call__(
        self, parameters: NDArray[Any], X: Any, scaling: Scaling | None
    ) -> NDArray[Any] | None:
        """The outputs, or None for inputs that the ordinary path must convert or refuse."""
        if X.dtype is not self.dtype or X.ndim != 2 or not X.flags.carray:
            return None
        rows, features = X.shape
        if features != self.features or not 0 < rows <= self.most_rows:
            return None
        if scaling is not self.scaling:
            self.use(scaling)
        outputs = np.empty((rows, self.outputs), self.dtype)
        state = (X, outputs, self.staged, self.scaling_table, *self.tables)
        status = self.function(parameters, self.loaded, *state)
        if status == PARAMETERS_CHANGED:
            self.engine.load_parameters(parameters)
            self.loaded[:] = parameters
            status = self.function(parameters, self.loaded, *state)
        return outputs if status == DONE else None

    def use(self, scaling: Scaling | None) -> None:
        """Take over a model's scaling."""
        self.scaling_table = self.no_scaling
        if scaling is not None:
            table = np.zeros((4, max(self.features, self.outputs)))
            table[3] = 1.0
            table[0, : self.features] = scaling.input_mean
            table[1, : self.features] = scaling.input_scale
            if scaling.target_mean is not None:
                table[2, : self.outputs] = scaling.target_mean
                table[3, : self.outputs] = scaling.target_scale
            self.scaling_table = table
        self.scaling = scaling
