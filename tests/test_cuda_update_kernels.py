"""Every optimizer through its two kernels of the CUDA backend, beside the reference."""

import numpy as np
import pytest
import reference
from cuda_kernels import Gpu, checked, normal
from kernels import Absent, dtypes, generator
from test_update_kernels import VARIANTS

import fastbp as fb
from fastbp.backends.contract import Scalar

STEPS = 8  # RAdam begins to rectify at the sixth


def begin_step(gpu, optimizer, tensors):
    """Run the once-a-step law."""
    gpu.call(
        "begin_step",
        tensors,
        law=optimizer.begin,
        setting_count=len(optimizer.settings),
        coefficient_count=optimizer.coefficient_count,
        carry_count=len(optimizer.carry),
    )


def update(gpu, optimizer, tensors, sizes, first, last):
    """Change parameters by the once-a-parameter law."""
    return gpu.call(
        "update_parameters",
        tensors,
        sizes,
        first,
        last,
        law=optimizer.update,
        slot_count=len(optimizer.slots),
        coefficient_count=optimizer.coefficient_count,
    )


def slots_of(gpu, optimizer, rows, columns):
    """An optimizer's slots one after the other, each in panels like the parameters."""
    if not optimizer.slots:
        return Absent()
    initial = [np.full((rows, columns), optimizer.initial_slot(slot)) for slot in optimizer.slots]
    return gpu.matrix(rows, columns, initial, copies=len(initial))


@dtypes
@pytest.mark.parametrize("is_weight", [0, 1])
@pytest.mark.parametrize("optimizer", VARIANTS, ids=str)
def test_every_optimizer(optimizer, is_weight, dtype):
    """Some steps of begin_step and update_parameters, clipped, beside the reference."""
    gpu, (height, columns) = Gpu(dtype, (16, 64)), (2, 5)
    rng = generator(8)
    parameter = gpu.matrix(height, columns, normal(rng, dtype, height, columns))
    slots = slots_of(gpu, optimizer, height, columns)
    carry = gpu.data(optimizer.carry or 0.0, "float64")
    coefficients = gpu.unwritten(1, optimizer.coefficient_count)
    settings = {**optimizer.describe()}
    del settings["name"]
    expected, state = parameter.matrix.astype(float), {}
    for t in range(1, STEPS + 1):
        settings["learning_rate"] = optimizer.learning_rate / t
        scalars = gpu.scalars(CLIP_SCALE=0.5, STEP=t, LEARNING_RATE=settings["learning_rate"])
        tensors = {
            "coefficients": coefficients,
            "carry": carry,
            "scalars": scalars,
            "settings": gpu.data(optimizer.settings or 0.0, "float64"),
        }
        begin_step(gpu, optimizer, tensors)
        G = normal(rng, dtype, height, columns)
        tensors = {
            "parameter": parameter,
            "slots": slots,
            "gradient": gpu.matrix(height, columns, G),
            "coefficients": coefficients,
            "clip": gpu.data(0.6),
            "scalars": scalars,
        }
        update(gpu, optimizer, tensors, (columns, is_weight), 0, height)
        g = np.clip(0.5 * G.astype(float), -0.6, 0.6)
        if optimizer.name == "rprop":
            settings["learning_rate"] = optimizer.learning_rate  # the first step size only
        function = reference.OPTIMIZERS[optimizer.name]
        expected = function(expected, g, state, t, bool(is_weight), **settings)
        bound = 1e-12 if dtype == "float64" else 2e-5
        assert np.max(np.abs(parameter.matrix - expected)) < bound
    assert parameter.padding_is_zero()


def tile_of_parameters(dtype, tile, shape, rows, bound, **options):
    """Adam's second step on a run of rows, which may begin and end within panels.

    The slots begin with numbers of their own, so that none can be taken for another.
    """
    (height, columns), (first, last) = shape, rows
    gpu, panel, optimizer = Gpu(dtype, tile, **options), tile[1], fb.Adam(0.1)
    rng = generator(10, height, columns)
    P, M, G = (normal(rng, dtype, height, columns) for _ in range(3))
    V = rng.uniform(0.5, 1.0, (height, columns)).astype(dtype)
    scalars = gpu.scalars(CLIP_SCALE=0.5, STEP=2, LEARNING_RATE=0.1)
    tensors = {
        "coefficients": gpu.unwritten(1, optimizer.coefficient_count),
        "carry": gpu.data(0.0, "float64"),
        "scalars": scalars,
        "settings": gpu.data(optimizer.settings, "float64"),
    }
    begin_step(gpu, optimizer, tensors)
    tensors = {
        "parameter": gpu.matrix(height, columns, P),
        "slots": gpu.matrix(height, columns, [M, V], copies=2),
        "gradient": gpu.matrix(height, columns, G),
        "coefficients": tensors["coefficients"],
        "clip": gpu.data(bound),
        "scalars": scalars,
    }
    before = update(gpu, optimizer, tensors, (columns, 1), first, last)
    P, M, V, G = (each.astype(float) for each in (P, M, V, G))
    state, g = {"m": M, "v": V}, np.clip(0.5 * G, -bound, bound)
    expected = reference.adam(P, g, state, 2, True, learning_rate=0.1)
    i, j = np.indices((height, tensors["parameter"].padded))
    inside = (first <= j // panel * height + i) & (j // panel * height + i < last) & (j < columns)
    for key, copy, values in (
        ("parameter", 0, expected),
        ("slots", 0, state["m"]),
        ("slots", 1, state["v"]),
    ):
        found, mine = tensors[key].read(copy), inside[:, :columns]
        error = np.abs(found[inside] - values[mine])
        assert error.max() < (1e-12 if dtype == "float64" else 2e-5)
        assert not tensors[key].changed(before[key], copy)[~inside].any()


@dtypes
@pytest.mark.parametrize(
    ("tile", "shape", "rows", "bound"),
    [
        ((16, 64), (1, 1), (0, 1), np.inf),
        ((16, 64), (7, 5), (2, 6), 0.3),
        ((16, 64), (5, 64), (4, 5), 0.3),
        ((16, 64), (9, 65), (3, 14), np.inf),
        ((32, 32), (1, 97), (1, 4), 0.3),
        ((32, 32), (10, 70), (7, 21), 0.3),
    ],
    ids=str,
)
def test_update_of_a_run_of_rows(tile, shape, rows, bound, dtype):
    tile_of_parameters(dtype, tile, shape, rows, bound)


@checked
def test_update_in_every_order(options):
    tile_of_parameters("float32", (32, 32), (9, 35), (7, 12), 0.3, **options)


@dtypes
def test_a_gradient_of_nan_is_not_clipped_away(dtype):
    gpu, optimizer = Gpu(dtype, (16, 64)), fb.SGD(0.5)
    tensors = {
        "parameter": gpu.matrix(1, 3, [1.0, 1.0, 1.0]),
        "slots": Absent(),
        "gradient": gpu.matrix(1, 3, [np.nan, np.inf, -np.inf]),
        "coefficients": gpu.data(optimizer.begin(1.0, 0.5, (), optimizer.settings)[0]),
        "clip": gpu.data(2.0),
        "scalars": gpu.scalars(CLIP_SCALE=1.0),
    }
    update(gpu, optimizer, tensors, (3, 1), 0, 1)
    assert np.array_equal(tensors["parameter"].matrix[0], [np.nan, 0.0, 2.0], equal_nan=True)


@checked
def test_begin_step_in_every_order(options):
    """NAdam carries a product from step to step."""
    gpu, optimizer = Gpu("float32", **options), fb.NAdam()
    tensors = {
        "coefficients": gpu.unwritten(1, optimizer.coefficient_count),
        "carry": gpu.data(optimizer.carry, "float64"),
        "scalars": gpu.scalars(STEP=1, LEARNING_RATE=0.25),
        "settings": gpu.data(optimizer.settings, "float64"),
    }
    carry = optimizer.carry
    for t in (1.0, 2.0):
        vector = np.zeros(int(Scalar.COUNT))
        vector[Scalar.STEP], vector[Scalar.LEARNING_RATE] = t, 0.25
        tensors["scalars"].write(vector)
        begin_step(gpu, optimizer, tensors)
        values, carry = optimizer.begin(t, 0.25, carry, optimizer.settings)
        assert tensors["coefficients"].matrix[0].tolist() == np.float32(values).tolist()
        assert tensors["carry"].matrix[0].tolist() == list(carry)
