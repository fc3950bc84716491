"""Weights held to a largest norm of each unit's."""

import numpy as np
import pytest
from kernels import Absent, Tensor, call, panel_columns, vector

import fastbp as fb

SHAPES = [(1, 1), (3, 5), (40, 64), (33, 65), (7, 130), (129, 16)]  # inputs, units


def constrained(weight, limit):
    norms = np.sqrt((weight**2).sum(axis=0))
    return weight * np.minimum(1, limit / norms)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("has_copy", [False, True])
@pytest.mark.parametrize(("inputs", "units"), SHAPES)
def test_units_beyond_the_norm_are_scaled_down(inputs, units, has_copy, turned, dtype):
    rng = np.random.default_rng([inputs, units])
    weight = rng.normal(size=(inputs, units)).astype(dtype).astype(float)
    limit = float(np.median(np.sqrt((weight**2).sum(axis=0))))
    expected = constrained(weight, limit)
    lies = (lambda m: m.T) if turned else (lambda m: m)
    parameter = Tensor(*lies(weight).shape, dtype, lies(weight))
    copy = Tensor(*lies(weight).T.shape, dtype, lies(weight).T) if has_copy else Absent()
    tensors = {"parameter": parameter, "transposed": copy, "limit": vector(limit, dtype)}
    lanes = 64 // np.dtype(dtype).itemsize
    count = units if turned else -(-units // panel_columns(dtype))
    height = lanes if turned else 1
    for first in range(0, count, height):
        span = first, min(first + height, count)
        call("constrain_weight", dtype, tensors, (lies(weight).shape[1], turned), *span)
    bound = 1e-15 if dtype == "float64" else 1e-6
    found = lies(parameter.matrix)
    assert np.abs(found - expected).max() < bound * np.abs(weight).max() * np.sqrt(inputs)
    within = np.sqrt((weight**2).sum(axis=0)) <= limit * (1 - 1e-6)
    assert np.array_equal(found[:, within], weight[:, within])  # these are as they were, to the bit
    assert parameter.padding_is_zero(0, parameter.rows)
    if has_copy:
        assert np.array_equal(copy.matrix, parameter.matrix.T)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_norm_that_is_not_finite_stays_visible(bad):
    """1e30**2 is beyond float32."""
    weight = np.ones((3, 2))
    weight[1, 1] = bad
    parameter = Tensor(3, 2, "float32", weight)
    tensors = {"parameter": parameter, "transposed": Absent(), "limit": vector(1.0, "float32")}
    call("constrain_weight", "float32", tensors, (2, 0), 0, 1)
    assert np.isnan(parameter.matrix[:, 1]).all()
    assert np.allclose(parameter.matrix[:, 0], 3**-0.5)


NETWORKS = {
    "one output": [fb.Dense(64, "tanh", max_norm=0.8), fb.Dense(1, max_norm=0.5)],
    "narrow": [fb.Dense(3, "tanh", max_norm=0.8), fb.Dense(2)],
    "wide": [fb.Dense(300, max_norm=0.8), fb.Dense(70, "relu", max_norm=1.0), fb.Dense(2)],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("batch_size", [16, 200])  # 200 rows may lie in lanes
@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_ends_with_the_constraint(name, batch_size, clip_norm, dtype):
    """One step with it is one step without it and then the constraint; the next one uses that."""
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(batch_size, 4)), rng.normal(size=(batch_size, NETWORKS[name][-1].units))
    held, free = (
        fb.Model(fb.Network(4, layers), dtype=dtype)
        for layers in (NETWORKS[name], [fb.Dense(d.units, d.activation) for d in NETWORKS[name]])
    )
    settings = {"optimizer": fb.SGD(0.3), "batch_size": batch_size, "clip_norm": clip_norm}
    bound = 1e-13 if dtype == "float64" else 1e-5
    for _ in range(3):
        free.parameters = held.parameters
        fb.train(free, X, y, epochs=1, **settings)
        fb.train(held, X, y, epochs=1, **settings)
        for i, layer in enumerate(NETWORKS[name]):
            expected = free.weights[f"{i}.weight"]
            if layer.max_norm is not None:
                expected = constrained(expected.astype(float), layer.max_norm)
                norms = np.sqrt((held.weights[f"{i}.weight"].astype(float) ** 2).sum(axis=0))
                assert norms.max() <= layer.max_norm * (1 + bound)
            assert np.abs(held.weights[f"{i}.weight"] - expected).max() < bound
            assert np.abs(held.weights[f"{i}.bias"] - free.weights[f"{i}.bias"]).max() < bound
    # All layouts of the weights agree: two epochs at once are one after the other.
    other = fb.Model(held.network, dtype=dtype)
    fb.train(other, X, y, epochs=3, **settings)
    assert np.array_equal(other.parameters, held.parameters)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_any_number_of_threads_gives_the_same_bits(ema, monkeypatch):
    from fastbp.backends.cpu import engine

    monkeypatch.setattr(engine, "PARALLEL_MULTIPLY_ADDS", 0)
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(300, 4)), rng.normal(size=(300, 2))
    found = []
    for threads in (1, 2):
        model = fb.Model(fb.Network(4, NETWORKS["wide"]))
        fb.train(model, X, y, epochs=4, batch_size=100, threads=threads, ema=ema)
        found.append(model.parameters)
    assert np.array_equal(*found)


def test_the_norm_is_part_of_the_layer(tmp_path):
    network = fb.Network(2, [fb.Dense(3, max_norm=2)])
    fb.Model(network).save(tmp_path / "m")
    assert fb.load(tmp_path / "m").network == network
    for value, error in [(0, ValueError), (-1.0, ValueError), ("1", TypeError)]:
        with pytest.raises(error, match="max_norm"):
            fb.Dense(3, max_norm=value)
