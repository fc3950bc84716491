"""Every optimizer through its two kernels, beside the reference, step by step."""

import numpy as np
import pytest
import reference
from kernels import Tensor, call, panel_columns, rows_untouched, scalars_tensor, vector

import fastbp as fb
from fastbp.backends.contract import Scalar
from fastbp.optimizers import Optimizer



class Slots(Tensor):
    """An optimizer's slots one after the other, each in panels like the parameters."""

    def __init__(self, rows, columns, dtype, values):
        one = Tensor(rows, columns, dtype)
        super().__init__(max(len(values), 1), one.elements, dtype, padded=False)
        for i, value in enumerate(values):
            self.whole[i * one.elements : (i + 1) * one.elements] = value
        self.slot_entry = [self.whole.ctypes.data, rows, one.padded_columns]

    @property
    def entry(self):
        return self.slot_entry


VARIANTS = [
    *(Optimizer.resolve(name) for name in Optimizer.names()),
    fb.SGD(0.1, momentum=0.9),
    fb.SGD(0.1, momentum=0.9, nesterov=True),
    fb.RMSprop(momentum=0.9),
    fb.RMSprop(centered=True),
    fb.RMSprop(centered=True, momentum=0.9),
    fb.Adam(amsgrad=True),
    fb.AdamW(weight_decay=0.3, amsgrad=True),
    fb.Lion(weight_decay=0.3),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "rows"),
    [((7, 5), (2, 6)), ((1, 1), (0, 1)), ((3, 63), (0, 3)), ((5, 64), (4, 5)), ((4, 65), (1, 4))],
    ids=str,
)
@pytest.mark.parametrize("is_weight", [0, 1])
@pytest.mark.parametrize("optimizer", VARIANTS, ids=str)
def test_every_optimizer(optimizer, is_weight, shape, rows, dtype):
    """Twelve steps of begin_step and update_parameters on a tile, clipped, beside the reference."""
    (height, columns), (first, last) = shape, rows
    rng = np.random.default_rng(8)
    P = rng.normal(size=(height, columns)).astype(dtype).astype(float)
    slots = Slots(height, columns, dtype, [optimizer.initial_slot(s) for s in optimizer.slots])
    scalars = scalars_tensor(CLIP_SCALE=0.5)
    carry = vector(optimizer.carry or 0.0, "float64")
    coefficients = Tensor(1, optimizer.coefficient_count, dtype)
    parameter = Tensor(height, columns, dtype, P)
    settings = {**optimizer.describe()}
    del settings["name"]
    expected, state = P[first:last].copy(), {}
    for t in range(1, 13):
        settings["learning_rate"] = optimizer.learning_rate / t
        scalars.matrix[0, Scalar.STEP] = t
        scalars.matrix[0, Scalar.LEARNING_RATE] = settings["learning_rate"]
        begin = {
            "coefficients": coefficients,
            "carry": carry,
            "scalars": scalars,
            "settings": vector(optimizer.settings or 0.0, "float64"),
        }
        call("begin_step", dtype, begin, (), 0, 0, law=optimizer)
        G = rng.normal(size=(height, columns)).astype(dtype).astype(float)
        tensors = {
            "parameter": parameter,
            "slots": slots,
            "gradient": Tensor(height, columns, dtype, G),
            "coefficients": coefficients,
            "clip": vector(0.6, dtype),
            "scalars": scalars,
        }
        before = parameter.snapshot()
        for panel in range(-(-columns // panel_columns(dtype))):
            span = (panel * height + first, panel * height + last)
            sizes = (columns, is_weight)
            call("update_parameters", dtype, tensors, sizes, *span, law=optimizer)
        assert rows_untouched(parameter, before, first, last)
        assert parameter.padding_is_zero(0, height)
        g = np.clip(0.5 * G[first:last], -0.6, 0.6)
        if optimizer.name == "rprop":
            settings["learning_rate"] = optimizer.learning_rate  # the first step size only
        function = reference.OPTIMIZERS[optimizer.name]
        expected = function(expected, g, state, t, bool(is_weight), **settings)
        bound = 1e-12 if dtype == "float64" else 2e-5
        assert np.max(np.abs(parameter.matrix[first:last] - expected)) < bound
