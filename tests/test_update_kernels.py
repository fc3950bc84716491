"""Every optimizer through its two kernels, beside the reference, step by step."""

import numpy as np
import pytest
import reference
from kernels import (
    Absent,
    Tensor,
    batch_tensor,
    call,
    panel_columns,
    rows_untouched,
    scalars_tensor,
    vector,
)

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


STEP_SHAPES = [(1, 1), (5, 17), (33, 40), (70, 5), (64, 64), (32, 1), (7, 33), (100, 130)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("features", "units"), STEP_SHAPES)
@pytest.mark.parametrize("n", [1, 2, 11])
@pytest.mark.parametrize("beside", ["alone", "with its bias", "turned, with its bias"])
@pytest.mark.parametrize(
    ("optimizer", "clip", "rates"),
    [(fb.Adam(0.1), np.inf, (0.0, 0.0)), (fb.SGD(0.1), 0.3, (0.2, 0.1))],
    ids=["adam", "sgd, clipped and penalized"],
)
def test_one_step_is_gradient_update_and_transpose(
    optimizer, clip, rates, beside, n, features, units, dtype
):
    """dense_step beside the kernels that do its work one by one: the same bits everywhere.

    They know no case of their own for a batch of one row. A turned weight is (units, inputs) of its
    layer, so that its bias has as many numbers as it has rows. Rows of the buffers beyond those of
    the batch hold NaN.
    """
    panel = panel_columns(dtype)
    tile = 2 * panel if clip == np.inf else panel // 2  # rows of a tile
    rng = np.random.default_rng([features, units])
    A, D = rng.normal(size=(n, features)), rng.normal(size=(n, units))
    is_turned = beside.startswith("turned")
    outputs, of_layer = (features, A) if is_turned else (units, D)
    W, b = rng.normal(size=(features, units)), rng.normal(size=outputs)
    panels = -(-units // panel)
    starts = [(p, row) for p in range(panels) for row in range(0, features, tile)]
    spans = [(p * features + row, p * features + min(row + tile, features)) for p, row in starts]
    bias_panels = -(-outputs // panel)
    takes_bias = beside != "alone" and len(starts) == bias_panels == 1
    scalars = scalars_tensor(GRADIENT_SCALE=0.5, CLIP_SCALE=1.0, STEP=3, LEARNING_RATE=0.1)
    coefficients = Tensor(1, optimizer.coefficient_count, dtype)
    begin = {
        "coefficients": coefficients,
        "carry": vector(optimizer.carry or 0.0, "float64"),
        "scalars": scalars,
        "settings": vector(optimizer.settings or 0.0, "float64"),
    }
    call("begin_step", dtype, begin, (), 0, 0, law=optimizer)

    def tensors(rows, columns, values):
        state = [0.25 * (i + 1) for i, _ in enumerate(optimizer.slots)]
        slots = Slots(rows, columns, dtype, state) if state else Absent()
        return Tensor(rows, columns, dtype, values), slots

    def rows_of_batch(values):
        beyond = np.full((2, values.shape[1]), np.nan)
        return Tensor(n + 2, values.shape[1], dtype, np.vstack([values, beyond]))

    class Problem:
        """Tensors of their own for one way to make the step."""

        def __init__(self):
            self.weight, self.weight_slots = tensors(features, units, W)
            self.bias, self.bias_slots = tensors(1, outputs, b)
            self.transposed = Tensor(units, features, dtype)
            self.inputs, self.delta = rows_of_batch(A), rows_of_batch(D)
            self.sums = {
                name: Tensor(1, len(starts) + 1, "float64")
                for name in ("tile_norm", "tile_penalty")
            }
            batch = batch_tensor(ROWS=n, BEGINS=1, ENDS=1)
            self.common = {**self.sums, "scalars": scalars, "batch": batch}
            self.penalties = vector(rates, "float64")
            self.laws = {"coefficients": coefficients, "clip": vector(clip, dtype)}

        def results(self):
            found = [self.weight, self.bias, self.transposed, *self.sums.values()]
            slots = self.weight_slots, self.bias_slots
            return found + [each for each in slots if isinstance(each, Tensor)]

    def at_once():
        problem = Problem()
        more = {"penalties": problem.penalties, **problem.common, **problem.laws}
        none = Absent()
        own = {
            "parameter": problem.weight,
            "slots": problem.weight_slots,
            "transposed": problem.transposed,
            "bias": problem.bias if takes_bias else none,
            "bias_slots": problem.bias_slots if takes_bias else none,
            "inputs": problem.inputs,
            "delta": problem.delta,
        }
        for span in spans:
            sizes = (units, tile, 0, int(is_turned))
            call("dense_step", dtype, {**more, **own}, sizes, *span, law=optimizer)
        if not takes_bias:
            own |= {"parameter": problem.bias, "slots": problem.bias_slots}
            own |= {"transposed": none, "inputs": none}
            own["delta"] = problem.inputs if is_turned else problem.delta
            sizes = (outputs, 9, len(starts), 0)
            call("dense_step", dtype, {**more, **own}, sizes, 0, bias_panels, law=optimizer)
        return problem.results()

    def one_by_one():
        problem = Problem()
        gradient, bias_gradient = Tensor(features, units, dtype), Tensor(1, outputs, dtype)
        weight, laws = problem.weight, {"scalars": scalars, **problem.laws}
        for span in spans:
            own = {
                "gradient": gradient,
                "parameter": weight,
                "penalties": problem.penalties,
                "inputs": problem.inputs,
                "delta": problem.delta,
            }
            call("dense_weight_gradient", dtype, {**own, **problem.common}, (tile, 0), *span)
            own = {"parameter": weight, "slots": problem.weight_slots, "gradient": gradient}
            call("update_parameters", dtype, {**own, **laws}, (units, 1), *span, law=optimizer)
            own = {"transposed": problem.transposed, "parameter": weight}
            call("transpose_weight", dtype, own, (units,), *span)
        delta = problem.inputs if is_turned else problem.delta
        own = {"gradient": bias_gradient, "delta": delta, **problem.common}
        call("dense_bias_gradient", dtype, own, (9, len(starts)), 0, bias_panels)
        own = {"parameter": problem.bias, "slots": problem.bias_slots, "gradient": bias_gradient}
        own |= laws
        call("update_parameters", dtype, own, (outputs, 0), 0, bias_panels, law=optimizer)
        return problem.results()

    together, apart = at_once(), one_by_one()
    for one, other in zip(together, apart, strict=True):
        assert np.array_equal(one.matrix, other.matrix)
    if optimizer.name == "sgd":
        expected = np.clip(0.5 * (A.T @ D) + rates[1] * W + rates[0] * np.sign(W), -clip, clip)
        assert np.max(np.abs(together[0].matrix - (W - 0.1 * expected))) < 1e-5
        expected = np.clip(0.5 * of_layer.sum(axis=0), -clip, clip)
        assert np.max(np.abs(together[1].matrix[0] - (b - 0.1 * expected))) < 1e-5
