"""A few rows predicted in one call: checked, scaled, propagated, scaled back."""

from __future__ import annotations

import math

from numba import types

from fastbp.backends.contract import Batch
from fastbp.backends.cpu.intrinsics import as_pointer, call_kernel
from fastbp.backends.cpu.job import Prediction

__all__ = ["predict_rows"]

ROWS, DATA_ROWS = int(Batch.ROWS), int(Batch.DATA_ROWS)
RESULT, ARRAY_DATA = int(Prediction.RESULT), int(Prediction.ARRAY_DATA)
PARAMETERS, LOADED = int(Prediction.PARAMETERS), int(Prediction.LOADED)
PARAMETER_COUNT, STAGED = int(Prediction.PARAMETER_COUNT), int(Prediction.STAGED)
SCALING, SCALING_COLUMNS = int(Prediction.SCALING), int(Prediction.SCALING_COLUMNS)
FEATURES, OUTPUTS = int(Prediction.FEATURES), int(Prediction.OUTPUTS)
PROPAGATION, STEPS = int(Prediction.PROPAGATION), int(Prediction.STEPS)
INPUT_ENTRY, OUTPUT_ENTRY = int(Prediction.INPUT_ENTRY), int(Prediction.OUTPUT_ENTRY)
BATCH = int(Prediction.BATCH)
DONE, PARAMETERS_CHANGED, NOT_FINITE = range(3)  # results

# An array object of NumPy begins with its data's address, its number of dimensions (padded to eight
# bytes) and the address of its shape, after what every Python object begins with.
SHAPE_AFTER_DATA = 16


def predict_rows(real):
    """Make ``predict_rows`` for a number type."""
    bits = types.int32 if real == types.float32 else types.int64

    def predict_rows(call, X, Y):
        """Predict; the result is DONE, or what keeps this from doing so, with nothing written.

        `call` is a vector with the places of `Prediction`; X and Y are the addresses of two array
        objects, (rows, inputs) and (rows, outputs), contiguous and of the model's dtype. Parameters
        that the engine does not hold are told by their bits.
        """
        ours = as_pointer(call[PARAMETERS], bits)
        loaded = as_pointer(call[LOADED], bits)
        changed = bits(0)
        for i in range(call[PARAMETER_COUNT]):
            changed |= ours[i] ^ loaded[i]
        if changed != 0:
            call[RESULT] = PARAMETERS_CHANGED
            return
        place = X + call[ARRAY_DATA]
        inputs = as_pointer(as_pointer(place, types.int64)[0], real)
        rows = as_pointer(as_pointer(place + SHAPE_AFTER_DATA, types.int64)[0], types.int64)[0]
        target = as_pointer(Y + call[ARRAY_DATA], types.int64)[0]
        outputs = as_pointer(target, real)
        staged = as_pointer(call[STAGED], real)
        features, units = call[FEATURES], call[OUTPUTS]
        scaling, columns = as_pointer(call[SCALING], types.float64), call[SCALING_COLUMNS]
        scaled = call[SCALING] != 0
        for i in range(rows):
            for j in range(features):
                value = inputs[i * features + j]
                if scaled:
                    value = real((types.float64(value) - scaling[j]) / scaling[columns + j])
                if not math.isfinite(value):
                    call[RESULT] = NOT_FINITE
                    return
                staged[i * features + j] = value
        batch = as_pointer(call[BATCH], types.int64)
        batch[ROWS] = rows
        batch[DATA_ROWS] = rows
        input_entry = as_pointer(call[INPUT_ENTRY], types.int64)
        output_entry = as_pointer(call[OUTPUT_ENTRY], types.int64)
        input_entry[1] = rows
        output_entry[0] = target
        output_entry[1] = rows
        steps = as_pointer(call[PROPAGATION], types.int64)
        for s in range(call[STEPS]):
            call_kernel(steps[2 * s], steps[2 * s + 1], 0, rows)
        if scaled:
            for i in range(rows):
                for j in range(units):
                    wide = types.float64(outputs[i * units + j]) * scaling[3 * columns + j]
                    outputs[i * units + j] = real(wide + scaling[2 * columns + j])
        call[RESULT] = DONE

    return predict_rows
