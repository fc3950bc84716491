"""The exponential moving average of the parameters."""

import numpy as np
import pytest
from kernels import Tensor, call, scalars_tensor

import fastbp as fb
from fastbp.backends.choose import create_engine, geometry
from fastbp.losses import Loss
from fastbp.plan import build_plan

NETWORKS = {  # weights as they are, turned, thin; rows in lanes or not
    "one output": fb.mlp(8, 64, 64, 1, activation="tanh"),
    "narrow": fb.mlp(5, 3, 1, activation="tanh"),
    "wide": fb.mlp(3, 300, 70, 2),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("lines", "first", "last"), [(1, 0, 1), (9, 2, 7), (40, 0, 40)])
def test_the_kernel_changes_its_lines_alone(lines, first, last, dtype):
    lanes = 64 // np.dtype(dtype).itemsize
    rng = np.random.default_rng(lines)
    before, values = rng.normal(size=(2, 1, lines * lanes)).astype(dtype)
    averages = Tensor(1, lines * lanes, dtype, before)
    tensors = {
        "averages": averages,
        "parameters": Tensor(1, lines * lanes, dtype, values),
        "scalars": scalars_tensor(AVERAGE_RATE=0.125),
    }
    call("average_parameters", dtype, tensors, (), first, last)
    expected = before.copy()
    inside = slice(first * lanes, last * lanes)
    expected[:, inside] = before[:, inside] + dtype_of(dtype, 0.125) * (values - before)[:, inside]
    assert np.array_equal(averages.matrix, expected)


def dtype_of(dtype, value):
    return np.dtype(dtype).type(value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_average_weighs_old_parameters_by_powers_of_the_decay(name, clip_norm, dtype):
    """Step by step, beside the sum as it is written down; with one thread and two the same bits."""
    network = NETWORKS[name]
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, network.inputs)).astype(dtype)
    y = rng.normal(size=(300, network.outputs)).astype(dtype)
    plan = build_plan(
        network,
        "train",
        dtype,
        128,
        geometry("cpu"),
        loss=Loss.resolve("mse"),
        optimizer=fb.Adam(1e-2),
        clip_norm=clip_norm,
        ema=0.9,
    )
    found = {}
    for threads in (1, 2):
        engine = create_engine(plan, "cpu", threads, parallel=threads > 1)
        engine.load_parameters(fb.Model(network, dtype=dtype).parameters)
        for tensor, array in (("inputs", X), ("targets", y), ("weights", None)):
            engine.bind(f"data.{tensor}", array)
        parameters, average = np.empty((2, network.parameter_count), dtype=dtype)
        total, weight = 0.0, 0.0
        for epoch in range(3):
            rates = np.full(3, 1e-2)
            engine.begin_epoch(300, shuffle_seed=1, epoch=epoch, learning_rates=rates)
            for batch in range(3):
                engine.run(batch, batch + 1)
                engine.store_parameters(parameters)
                engine.store_parameters(average, engine.snapshot(slab="averages"))
                total = 0.9 * total + parameters.astype(float)
                weight = 0.9 * weight + 1
                bound = 1e-14 if dtype == "float64" else 1e-6
                assert np.abs(average - total / weight).max() < bound
        found[threads] = average
    assert np.array_equal(found[1], found[2])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_goes_on_in_another_engine(name):
    """Every slab that counts comes back to the bit, copies of turned weights included."""
    network = NETWORKS[name]
    plan = build_plan(
        network,
        "train",
        "float32",
        64,
        geometry("cpu"),
        loss=Loss.resolve("mse"),
        optimizer=fb.NAdam(1e-2),
        ema=0.5,
    )
    engine, other = (create_engine(plan, "cpu", 1) for _ in range(2))
    engine.load_parameters(fb.Model(network).parameters)
    rng = np.random.default_rng(2)
    engine.bind("data.inputs", rng.normal(size=(64, network.inputs)).astype("float32"))
    engine.bind("data.targets", rng.normal(size=(64, network.outputs)).astype("float32"))
    engine.begin_epoch(64, learning_rates=np.full(1, 1e-2))
    engine.run(0, 1)
    other.write_state(engine.read_state())
    for slab in ("parameters", "averages", "slots", "scalars"):
        assert np.array_equal(engine.buffers.slabs[slab], other.buffers.slabs[slab]), slab
    carry = [each.buffers.vector("carry") for each in (engine, other)]
    assert carry[0].any()
    assert np.array_equal(*carry)


def test_the_average_is_what_is_validated_kept_and_returned(small):
    X, y = small
    held_out = (X[:20], y[:20])

    def trained(**settings):
        model, seen = fb.Model(fb.mlp(3, 16, 1), dtype="float64"), []
        result = fb.train(
            model,
            X,
            y,
            batch_size=64,
            epochs=6,
            optimizer=fb.Adam(0.05),
            validation=held_out,
            callbacks=[lambda row, m: seen.append(m.parameters.copy())],
            **settings,
        )
        return model, result, seen

    _, plain, raw = trained()
    model, result, averages = trained(ema=0.7)
    assert np.array_equal(plain.history["loss"], result.history["loss"])  # training is the same
    weights = 0.7 ** np.arange(6)[::-1]
    expected = np.tensordot(weights, raw, 1) / weights.sum()
    assert np.allclose(averages[-1], expected, rtol=1e-13, atol=0)
    assert np.array_equal(model.parameters, averages[-1])
    assert result.validation_loss == pytest.approx(model.loss(*held_out), rel=1e-13)
    assert not np.array_equal(plain.history["validation_loss"], result.history["validation_loss"])


@pytest.mark.parametrize(
    ("value", "error"), [(0.0, ValueError), (1.0, ValueError), ("0.9", TypeError), (True, TypeError)]
)
def test_decays_that_are_none(value, error, small):
    with pytest.raises(error, match="ema"):
        fb.train(fb.Model(fb.mlp(3, 1)), *small, ema=value)
