"""Schedules, initial values, the shuffle, the specification of networks."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastbp as fb
from fastbp import shuffle
from fastbp.activations import Activation
from fastbp.initializers import INITIALIZERS, initial_values
from fastbp.schedules import Schedule

STEPS = np.arange(100.0)


def factors(schedule, losses=()):
    return schedule.factors(STEPS, 10, 100, list(losses))


@pytest.mark.parametrize("name", Schedule.names())
def test_every_schedule_gives_finite_factors(name):
    found = factors(Schedule.resolve(name), [1.0, 0.5, 0.6])
    assert found.shape == STEPS.shape
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert found.max() <= 1.0


def test_the_promised_schedules():
    assert {s.__name__ for s in Schedule.registry.values()} == set(
        "Constant StepDecay ExponentialDecay CosineDecay WarmupCosine OneCycle "
        "ReduceOnPlateau".split()
    )


def test_schedules_against_their_formulas():
    epochs = np.floor(STEPS / 10)
    assert np.array_equal(factors(fb.Constant()), np.ones(100))
    assert np.allclose(factors(fb.StepDecay(3, 0.5)), 0.5 ** (epochs // 3))
    assert np.allclose(factors(fb.ExponentialDecay(0.9)), 0.9**epochs)
    cosine = 0.2 + 0.8 * 0.5 * (1 + np.cos(np.pi * STEPS / 100))
    assert np.allclose(factors(fb.CosineDecay(0.2)), cosine)
    warm = factors(fb.WarmupCosine(0.2, 0.0))
    assert np.allclose(warm[:20], (STEPS[:20] + 1) / 20)
    assert np.allclose(warm[20:], 0.5 * (1 + np.cos(np.pi * (STEPS[20:] - 20) / 80)))
    cycle = factors(fb.OneCycle(0.25, 0.1, 0.01))
    assert cycle[0] == pytest.approx(0.1)
    assert cycle[25] == pytest.approx(1.0)
    assert np.all(np.diff(cycle[:26]) > 0)
    assert np.all(np.diff(cycle[25:]) < 0)


def test_reduce_on_plateau():
    schedule = fb.ReduceOnPlateau(factor=0.5, patience=2, threshold=0.0, minimum=0.2)
    assert factors(schedule, [3, 2, 1])[0] == 1.0
    assert factors(schedule, [3, 2, 2, 2])[0] == 0.5
    assert factors(schedule, [3, 2, 2, 2, 2, 2])[0] == 0.25
    assert factors(schedule, [3, *[2] * 20])[0] == 0.2
    assert factors(schedule, [-1, -2, -2.5, -2.5])[0] == 1.0


@pytest.mark.parametrize("name", sorted(INITIALIZERS))
def test_initial_values(name):
    inputs, units = 300, 200
    values = initial_values(name, 3, 0, inputs, units)
    assert values.shape == (inputs, units)
    variance = {
        "he": 2 / inputs,
        "lecun": 1 / inputs,
        "glorot": 2 / (inputs + units),
        "zeros": 0.0,
        "ones": 0.0,
        "orthogonal": 1 / inputs,
    }[name.split("_")[0]]
    assert values.var() == pytest.approx(variance, rel=0.03)
    if name.endswith("uniform"):
        assert np.abs(values).max() <= np.sqrt(3 * variance)
    if name == "orthogonal":
        assert np.allclose(values.T @ values, np.eye(units))
        wide = initial_values(name, 3, 0, 20, 30)
        assert np.allclose(wide @ wide.T, np.eye(20))
    assert np.array_equal(values, initial_values(name, 3, 0, inputs, units))
    if name not in {"zeros", "ones"}:
        assert not np.array_equal(values, initial_values(name, 4, 0, inputs, units))
        assert not np.array_equal(values, initial_values(name, 3, 1, inputs, units))


def test_default_initial_values_follow_the_activation():
    expected = {"relu": "he_normal", "tanh": "glorot_uniform", "selu": "lecun_normal"}
    for name, initializer in expected.items():
        assert fb.Dense(3, name).initializer == initializer
    assert fb.Dense(3, "relu", "zeros").initializer == "zeros"
    assert all(Activation.registry[n].initializer in INITIALIZERS for n in Activation.names())
    model = fb.Model(fb.mlp(4, 3, 2))
    assert not model.weights["0.bias"].any()


def test_float32_and_float64_start_from_the_same_point():
    network = fb.mlp(5, 7, 2, activation="tanh")
    single, double = fb.Model(network, "float32", 9), fb.Model(network, "float64", 9)
    assert np.array_equal(single.parameters, double.parameters.astype(np.float32))


def test_philox_against_published_vectors():
    """Random123's known answers for philox4x32-10 (Salmon et al. 2011)."""
    ones = 0xFFFFFFFF
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    answers = [
        (((0,) * 4, (0,) * 2), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (((ones,) * 4, (ones,) * 2), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (pi, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ]
    for arguments, expected in answers:
        assert shuffle.philox(*arguments) == expected


def order(rows, seed, epoch):
    keys = shuffle.round_keys(seed, epoch).tolist()
    bits = shuffle.index_bits(rows)
    return [shuffle.permute(i, rows, bits, keys) for i in range(rows)]


@given(rows=st.integers(1, 1500), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**40))
def test_the_shuffle_is_a_permutation(rows, seed, epoch):
    assert sorted(order(rows, seed, epoch)) == list(range(rows))


def test_the_shuffle_is_uniform():
    """Chi-square over all orders of five rows, and over places of 40 rows; far bounds."""
    counts = dict.fromkeys(itertools.permutations(range(5)), 0)
    draws = 6000
    for epoch in range(draws):
        counts[tuple(order(5, 1, epoch))] += 1
    expected = draws / 120
    statistic = sum((c - expected) ** 2 / expected for c in counts.values())
    assert statistic < 119 + 5 * np.sqrt(2 * 119)
    places = np.zeros((40, 40))
    for epoch in range(1500):
        places[np.arange(40), order(40, 2, epoch)] += 1
    expected = 1500 / 40
    statistic = ((places - expected) ** 2 / expected).sum()
    assert statistic < 39**2 + 5 * np.sqrt(2 * 39**2)


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_network_knows_its_shapes():
    network = fb.mlp(8, 64, 32, 1, activation="tanh")
    assert network.sizes == (8, 64, 32, 1)
    assert network.outputs == 1
    assert network.parameter_count == 8 * 64 + 64 + 64 * 32 + 32 + 32 + 1
    assert [name for name, _ in network.parameters()] == [
        f"{i}.{kind}" for i in range(3) for kind in ("weight", "bias")
    ]
    assert network == fb.Network(8, [fb.Dense(64, "tanh"), fb.Dense(32, "tanh"), fb.Dense(1)])
    assert fb.Network.from_description(network.describe()) == network


def test_model_views_and_summary():
    model = fb.Model(fb.mlp(3, 4, 2))
    model.parameters[:] = np.arange(model.parameters.size)
    assert model.weights["0.weight"][1, 2] == 6
    assert model.weights["1.bias"].tolist() == [24, 25]
    model.weights["1.bias"][0] = -1
    assert model.parameters[-2] == -1
    assert "26 parameters, float32, 104 bytes" in model.summary()
    with pytest.raises(ValueError, match="shape"):
        model.parameters = [1.0]
