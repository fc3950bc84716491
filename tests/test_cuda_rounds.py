"""What follows the updates on a GPU, against the processor: norms held, averages, a loss's limit."""

import numpy as np
import pytest
from simulated import BOUND, WAYS, both, problem
from strategies import scaled_error

import fastbp as fb
from fastbp.backends import choose
from fastbp.backends.contract import Scalar, Status
from fastbp.backends.cuda import tuning
from fastbp.losses import Loss
from fastbp.plan import build_plan

pytestmark = pytest.mark.usefixtures("gpu")

FREE = fb.mlp(3, 5, 4, 2, activation="tanh")
HELD = fb.Network(3, [fb.Dense(5, "tanh", max_norm=0.7), fb.Dense(4, max_norm=0.5), fb.Dense(2)])
RUNS = {
    "average": (FREE, {"ema": 0.9}),
    "norms": (HELD, {}),
    "both, clipping": (HELD, {"ema": 0.9, "clip_norm": 0.3, "l2": 1e-2}),
}


def largest_norm(model, layer):
    return np.sqrt((model.weights[f"{layer}.weight"] ** 2).sum(axis=0)).max()


@pytest.mark.parametrize(
    ("way", "run"),
    [(way, run) for i, way in enumerate(WAYS) for j, run in enumerate(RUNS) if (i + j) % 2 == 0],
    indirect=["way"],
)
def test_every_way_trains_as_the_processor_does(way, run):
    X, y = problem(17)
    network, settings = RUNS[run]
    _, model = both(network, X, y, optimizer=fb.Adam(0.01), epochs=1, batch_size=9, **settings)
    before = fb.Model(network, dtype="float64", seed=3)
    for i, layer in enumerate(network.layers):
        if layer.max_norm is not None:
            assert largest_norm(before, i) > layer.max_norm * 1.1
            assert largest_norm(model, i) <= layer.max_norm * (1 + 1e-12)


@pytest.mark.usefixtures("racing")
@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_rounds_wait_for_the_updates(way):
    X, y = problem(18)
    network, settings = RUNS["both, clipping"]
    both(network, X, y, "float32", optimizer=fb.SGD(0.1), epochs=1, batch_size=9, **settings)


@pytest.mark.parametrize("way", ["fused", "layered"], indirect=True)
@pytest.mark.parametrize("clip_norm", [None, 0.3])
def test_batches_that_come_in_segments(clip_norm, way, monkeypatch):
    """A step is counted once a batch, whatever its segments; so is what the average weighs."""
    monkeypatch.setattr(tuning, "FUSED_SEGMENT_ROWS", 20)
    monkeypatch.setattr(tuning, "LAYERED_SEGMENT_ROWS", 20)
    X, y = problem(50)
    settings = {"ema": 0.5, "clip_norm": clip_norm}
    both(HELD, X, y, optimizer=fb.SGD(0.1), epochs=1, batch_size=25, **settings)


@pytest.mark.usefixtures("racing")
def test_layers_of_several_panels_and_shares():
    X, y = problem(8, 70, 3)
    network = fb.Network(70, [fb.Dense(75, "tanh", max_norm=0.5), fb.Dense(3, max_norm=0.5)])
    both(network, X, y, optimizer=fb.SGD(0.1), epochs=1, batch_size=4, ema=0.5)


def test_the_average_is_what_is_validated_and_kept():
    X, y = problem(20)
    settings = {"optimizer": fb.Adam(0.05), "epochs": 2, "batch_size": 10}
    held_out = problem(9, seed=1)
    result, model = both(FREE, X, y, ema=0.8, validation=held_out, **settings)
    assert result.validation_loss == pytest.approx(model.loss(*held_out), rel=1e-12)
    plain, raw = both(FREE, X, y, validation=held_out, **settings)
    assert np.array_equal(plain.history["loss"], result.history["loss"])
    assert scaled_error(model.parameters, raw.parameters) > 1e-3


# A batch whose loss is over the limit.


def engines(network, rows, **settings):
    """The same training on the processor and on the GPU, ready for its first epoch."""
    X, y = problem(rows, network.inputs, network.outputs)
    model, found = fb.Model(network, dtype="float64", seed=1), []
    for device in ("cpu", "cuda"):
        plan = build_plan(
            network,
            "train",
            "float64",
            10,
            choose.geometry(device, network, "float64"),
            loss=Loss.resolve("mse"),
            optimizer=fb.NAdam(0.01),
            **settings,
        )
        engine = choose.create_engine(plan, device, 1)
        engine.bind("data.inputs", X)
        engine.bind("data.targets", y)
        engine.load_parameters(model.parameters)
        engine.begin_epoch(rows, learning_rates=np.full(-(-rows // 10), 0.01))
        found.append(engine)
    return found


@pytest.mark.parametrize(
    ("way", "clip_norm"), [*zip(WAYS, 2 * [1e-3, None], strict=True)], indirect=["way"]
)
def test_a_loss_over_the_limit_ends_the_run_before_the_rounds(way, clip_norm):
    states, initial = [], fb.Model(HELD, dtype="float64", seed=1).parameters
    for engine in engines(HELD, 30, ema=0.5, clip_norm=clip_norm):
        assert engine.scalars[Scalar.LOSS_LIMIT] == np.inf
        assert engine.run(0, 1) == (Status.DONE, 1)
        scalars = engine.scalars.copy()
        average = engine.read_state()["averages"]
        scalars[Scalar.LOSS_LIMIT] = 1e-9
        engine.load_scalars(scalars)
        assert engine.run_in_calls(3, 1) == (Status.LOSS_NOT_FINITE, 1)
        states.append(engine.read_state())
        assert np.array_equal(states[-1]["averages"], average)
        assert not np.array_equal(average, initial)
    cpu, gpu = states
    assert list(cpu) == list(gpu)
    for name in cpu:
        assert scaled_error(gpu[name], cpu[name]) < 1e-11, name


def test_a_training_that_runs_away_stops_at_the_same_step():
    X, y = problem(20)
    errors = []
    for device in ("cpu", "cuda"):
        model = fb.Model(fb.mlp(3, 4, 2, activation="identity"), dtype="float64", seed=0)
        with pytest.raises(fb.DivergenceError) as caught:
            fb.train(
                model,
                X,
                y,
                device=device,
                optimizer=fb.SGD(3.0),
                batch_size=5,
                epochs=20,
                ema=0.5,
            )
        errors.append((caught.value, model))
    (expected, processor), (error, model) = errors
    assert str(error) == str(expected)
    assert "times that of the start" in str(error)
    assert (error.step, error.epoch, error.quantity) == (
        expected.step,
        expected.epoch,
        expected.quantity,
    )
    assert scaled_error(model.parameters, processor.parameters) < BOUND["float64"]


# The state of a run.


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_a_state_goes_on_in_another_engine(way):
    """To the bit, whatever the other one held; batches after it as if nothing had been."""
    _, engine = engines(HELD, 30, ema=0.5)
    _, other = engines(HELD, 30, ema=0.5)
    engine.run(0, 2)
    other.run(0, 1)
    state = engine.read_state()
    other.write_state(state)
    for name, values in other.read_state().items():
        assert np.array_equal(values, state[name]), name
    engine.run(2, 3)
    other.run(2, 3)
    for slab in ("parameters", "transposed", "slots", "averages", "scalars"):
        found, expected = (each.buffers.download_slab(slab) for each in (other, engine))
        assert np.array_equal(found, expected), slab
    assert state["carry"].any()


def test_states_of_both_devices_have_the_same_names_and_shapes():
    cpu, gpu = (engine.read_state() for engine in engines(HELD, 30, ema=0.5))
    assert {n: v.shape for n, v in cpu.items()} == {n: v.shape for n, v in gpu.items()}
    assert {n: v.dtype for n, v in cpu.items()} == {n: v.dtype for n, v in gpu.items()}
