"""Predictions for a few rows, with as little overhead as one call of a compiled function allows.

The ordinary path checks, scales and copies with NumPy, binds the engine's tables from Python and
frees the GIL: tens of microseconds, which matters where a row at a time is asked for (controllers,
right-hand sides, optimizers in the loop). Here all of that is one compiled function over the tables
of an engine of its own. It runs the same kernels, so the bits are the same.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.contract import Batch
from fastbp.backends.cpu.engine import Engine
from fastbp.backends.cpu.job import Mode, Prediction
from fastbp.backends.cpu.machine_code import bind
from fastbp.scaling import Scaling

__all__ = ["FewRows"]

POSITION = Batch.POSITION
ORDER_BEGIN, ORDER_END = Batch.ORDER_BEGIN, Batch.ORDER_END
DONE, PARAMETERS_CHANGED = 0, 1  # as predict_rows returns them
UNKNOWN = object()  # no model has this scaling
NO_PARAMETER = 0xFF  # every byte: a NaN that no arithmetic makes

# The function keeps the GIL, which also keeps other threads out of the engine's buffers; so it is
# only for calls of a few microseconds.
MOST_MULTIPLY_ADDS = 400_000
KIND = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)

# Where an array object keeps the address of its data: right after what every Python object begins
# with. Compiled extensions read it there, so NumPy cannot move it; asking for it in Python takes
# longer than a prediction.
ARRAY_DATA = object.__basicsize__


def arrays_are_readable() -> bool:
    """Whether the data and the shape of an array are where compiled code looks for them."""
    if sys.implementation.name != "cpython":
        return False
    array = np.zeros((3, 5), dtype=np.float32)
    data, _, shape = (ctypes.c_int64 * 3).from_address(id(array) + ARRAY_DATA)
    if data != array.ctypes.data:
        return False
    return tuple((ctypes.c_int64 * 2).from_address(shape)) == array.shape


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
        if not arrays_are_readable():
            self.most_rows = 0
        self.parameters = parameters
        self.loaded = np.empty_like(parameters)
        self.loaded.view(np.uint8).fill(NO_PARAMETER)
        self.staged = np.zeros((plan.segment_rows, self.features), dtype=self.dtype)
        self.scaling: Any = None
        self.lock = threading.Lock()  # of what is loaded
        self.function = KIND(bind("call_in_mode"))
        self.bind_data()
        self.build_call()
        index = engine.buffers.vector("row_index")
        index[:] = np.arange(index.size)
        engine.batch[[POSITION, ORDER_BEGIN, ORDER_END]] = 0, 0, index.size

    def bind_data(self) -> None:
        """Point the engine's data tensors at the staged inputs, and at the outputs to come."""
        table, positions = self.engine.argument_table, self.engine.data_positions
        (self.input_entry,), (self.output_entry,) = (
            positions[name] for name in ("data.inputs", "data.outputs")
        )
        table[self.input_entry] = self.staged.ctypes.data
        table[self.input_entry + 2] = self.features
        table[self.output_entry + 2] = self.outputs

    def build_call(self) -> None:
        """The vector that the compiled function is called with."""
        engine, plan = self.engine, self.engine.plan
        arguments = engine.argument_table.ctypes.data
        self.call = np.zeros(Prediction.COUNT, dtype=np.int64)
        for place, value in {
            Prediction.FUNCTION: bind("predict_rows", plan.dtype),
            Prediction.MODE: Mode.GRADUAL,
            Prediction.ARRAY_DATA: ARRAY_DATA,
            Prediction.PARAMETERS: self.parameters.ctypes.data,
            Prediction.LOADED: self.loaded.ctypes.data,
            Prediction.PARAMETER_COUNT: self.parameters.size,
            Prediction.STAGED: self.staged.ctypes.data,
            Prediction.FEATURES: self.features,
            Prediction.OUTPUTS: self.outputs,
            Prediction.PROPAGATION: engine.propagation.ctypes.data,
            Prediction.STEPS: len(plan.propagation),
            Prediction.INPUT_ENTRY: arguments + 8 * self.input_entry,
            Prediction.OUTPUT_ENTRY: arguments + 8 * self.output_entry,
            Prediction.BATCH: engine.batch.ctypes.data,
        }.items():
            self.call[place] = value
        self.call_address = self.call.ctypes.data

    def __call__(self, X: Any, scaling: Scaling | None) -> NDArray[Any] | None:
        """The outputs, or None for inputs that the ordinary path must convert or refuse."""
        if X.dtype is not self.dtype or X.ndim != 2 or not X.flags.carray:
            return None
        rows, features = X.shape
        if features != self.features or not 0 < rows <= self.most_rows:
            return None
        if scaling is not self.scaling:
            self.use(scaling)
        outputs = np.empty((rows, self.outputs), self.dtype)
        status = self.function(self.call_address, id(X), id(outputs))
        if status == PARAMETERS_CHANGED:
            self.load()
            status = self.function(self.call_address, id(X), id(outputs))
        return outputs if status == DONE else None

    def load(self) -> None:
        """Take over the parameters, which another thread may be changing.

        Until all of them are there none is said to be: an interrupt may come in between.
        """
        with self.lock:
            parameters = self.parameters.copy()
            self.loaded.view(np.uint8).fill(NO_PARAMETER)
            self.engine.load_parameters(parameters)
            self.loaded[:] = parameters

    def use(self, scaling: Scaling | None) -> None:
        """Take over a model's scaling."""
        self.scaling = UNKNOWN  # an interrupt may come before it is there
        self.call[Prediction.SCALING] = 0
        if scaling is not None:
            table = np.zeros((4, max(self.features, self.outputs)))
            table[3] = 1.0
            table[0, : self.features] = scaling.input_mean
            table[1, : self.features] = scaling.input_scale
            if scaling.target_mean is not None:
                table[2, : self.outputs] = scaling.target_mean
                table[3, : self.outputs] = scaling.target_scale
            self.scaling_table = table
            self.call[Prediction.SCALING] = table.ctypes.data
            self.call[Prediction.SCALING_COLUMNS] = table.shape[1]
        self.scaling = scaling
