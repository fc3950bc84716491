"""What layers do while they train: numbers of engines against NumPy, on every device."""

import numpy as np
import pytest
import reference
from strategies import scaled_error

import fastbp as fb
from fastbp import layer_statistics
from fastbp.activations import FLAT
from fastbp.backends.choose import create_engine, geometry
from fastbp.backends.contract import Scalar
from fastbp.layer_statistics import LayerStatistics
from fastbp.plan import build_plan
from fastbp.result import LAYER_FIELDS
from fastbp.run_engines import WORK, RunEngines

# Activations.


def slopes(activation):
    """Outputs and derivatives on a grid without kinks."""
    z = np.linspace(-30, 30, 60_001) + 1e-4
    pairs = np.array([activation.law(float(x), activation.settings) for x in z])
    return pairs[:, 0], pairs[:, 1]


@pytest.mark.parametrize("name", fb.Activation.names())
def test_outputs_tell_where_a_law_is_flat(name):
    """For all that have such outputs: nowhere else, and there everywhere."""
    activation = fb.Activation.resolve(name)
    outputs, derivatives = slopes(activation)
    found = [activation.idle(outputs), activation.saturated(outputs)]
    told = [each for each in found if each is not None]
    if not told:
        assert name in {"identity", "gelu", "gelu_tanh", "silu", "mish", "sine"}
        return
    told = np.any(told, axis=0)
    is_flat = np.abs(derivatives) < FLAT * np.abs(derivatives).max()
    if name == "hardswish":  # falls and rises again: only the end tells, and zero itself
        is_flat = (derivatives == 0) & (outputs == 0)
    border = np.abs(np.abs(derivatives) - FLAT * np.abs(derivatives).max()) < 1e-3
    assert is_flat.sum() > 10_000
    assert np.array_equal(told[~border], is_flat[~border])


@pytest.mark.parametrize(
    "activation",
    [fb.LeakyRelu(0.01), fb.LeakyRelu(0.2), fb.LeakyRelu(-0.01), fb.Elu(0.5), fb.Elu(3.0)],
)
def test_settings_decide_where_a_law_is_flat(activation):
    outputs, derivatives = slopes(activation)
    told = activation.idle(outputs)
    if activation in (fb.LeakyRelu(0.2), fb.LeakyRelu(-0.01)):
        assert told is None
        return
    least = FLAT * np.abs(derivatives).max()
    border = np.abs(derivatives - least) < 1e-3 * (activation.name == "elu")
    assert np.array_equal(told[~border], derivatives[~border] < least)


def test_an_activation_of_a_user_tells_nothing(monkeypatch):
    monkeypatch.setattr(fb.Activation, "registry", dict(fb.Activation.registry))

    class Own(fb.Activation):
        pass

    assert Own().idle(np.zeros(3)) is None
    assert Own().saturated(np.zeros(3)) is None


def test_numbers_that_are_none_are_neither_idle_nor_saturated():
    outputs = np.array([np.nan])
    assert not fb.Relu().idle(outputs).any()
    assert not fb.Tanh().saturated(outputs).any()


# Engines.


class Trained:
    """An engine that has run an epoch with learning rates of zero, and what NumPy makes of it."""

    def __init__(
        self, sizes, activations, rows, batch_rows, dtype="float64", device="cpu", **options
    ):
        purpose = options.pop("purpose", "train")
        layers = [fb.Dense(n, a) for n, a in zip(sizes[1:], activations, strict=True)]
        self.network = fb.Network(sizes[0], layers)
        self.model = fb.Model(self.network, dtype=dtype, seed=4)
        rng = np.random.default_rng(3)
        self.model.parameters[...] += rng.normal(size=self.model.parameters.size) * 0.3
        self.activations = activations
        self.X = np.ascontiguousarray(rng.normal(size=(rows, sizes[0])) * 2, dtype=dtype)
        self.y = np.ascontiguousarray(rng.normal(size=(rows, sizes[-1])), dtype=dtype)
        shapes = geometry(device, self.network, dtype)
        optimizer = fb.Adam() if purpose == "train" else None
        plan = build_plan(
            self.network,
            purpose,
            dtype,
            batch_rows,
            shapes,
            loss=fb.Mse(),
            optimizer=optimizer,
            **options,
        )
        self.l2 = options.get("l2", 0.0)
        self.engine = create_engine(plan, device)
        self.engine.bind("data.inputs", self.X)
        self.engine.bind("data.targets", self.y)
        self.engine.bind("data.weights", None)
        self.engine.load_parameters(self.model.parameters)
        batches = -(-rows // batch_rows)
        self.engine.begin_epoch(rows, learning_rates=np.zeros(batches))
        self.engine.run_in_calls(batches)
        first = (batches - 1) * batch_rows
        self.batch = slice(first, rows)
        in_batch = rows - first
        self.segment = slice(rows - ((in_batch - 1) % plan.segment_rows + 1), rows)

    def pairs(self):
        weights = {name: np.float64(value) for name, value in self.model.weights.items()}
        return [
            (weights[f"{i}.weight"], weights[f"{i}.bias"]) for i in range(len(self.activations))
        ]

    def outputs(self, layer):
        rows = np.float64(self.X[self.segment])
        return reference.forward(self.pairs()[: layer + 1], self.activations[: layer + 1], rows)

    def gradient_norms(self):
        wide = fb.Model(self.network, dtype="float64")
        wide.parameters = self.model.parameters
        _, gradient = wide.loss_and_gradient(self.X[self.batch], self.y[self.batch])
        squares, start = np.zeros(len(self.activations)), 0
        for name, specification in self.network.parameters():
            part = gradient[start : start + specification.size]
            if specification.is_weight:
                part = part + self.l2 * wide.weights[name].ravel()
            squares[int(name[0])] += (part**2).sum()
            start += specification.size
        return np.sqrt(squares)


def empty_row(network):
    layers = len(list(network.members()))
    return {name: np.full(layers, -1.0) for name in LAYER_FIELDS}


def check(trained):
    network, engine = trained.network, trained.engine
    bound = 1e-12 if trained.model.dtype == "float64" else 1e-5
    statistics, row = LayerStatistics(engine), empty_row(network)
    for _ in range(2):  # the second time in memory of the first
        statistics.fill(row)
        assert scaled_error(row["layer_gradient_norm"], trained.gradient_norms()) < bound
        norms = [np.sqrt((W**2).sum() + (b**2).sum()) for W, b in trained.pairs()]
        assert scaled_error(row["layer_parameter_norm"], norms) < bound
        assert np.isnan(row["layer_update_ratio"]).all()
        for i, name in enumerate(trained.activations):
            outputs, activation = trained.outputs(i), fb.Activation.resolve(name)
            found = engine.read_rows(f"{i}.output")
            assert scaled_error(found, outputs) < bound
            idle, saturated = activation.idle(outputs), activation.saturated(outputs)
            dead = np.nan if idle is None else idle.all(axis=0).mean()
            share = np.nan if saturated is None else saturated.mean()
            np.testing.assert_equal(row["layer_dead_share"][i], dead)
            np.testing.assert_allclose(row["layer_saturated_share"][i], share, atol=1e-3)
    return row


ACTIVATIONS = ["relu", "tanh", "softplus", "hardswish", "identity"]
# (sizes, rows, batch): thin layers and a small last batch; many panels; rows in lanes, with and
# without a part of a panel; batches in segments.
SHAPES = {
    "small": ((7, 20, 9, 5, 3, 2), 23, 10),
    "one row": ((3, 8, 8, 8, 8, 1), 21, 10),
    "panels": ((70, 130, 65, 129, 33, 70), 40, 40),
    "lanes": ((4, 5, 4, 6, 4, 3), 333, 333),
    "lanes, whole panels": ((4, 5, 4, 6, 4, 3), 384, 128),
    "segments": ((9, 64, 64, 64, 16, 1), 2_100, 2_100),
    "segments in lanes": ((4, 5, 4, 6, 4, 3), 1_500, 1_500),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_of_every_layer(shape, dtype):
    sizes, rows, batch_rows = SHAPES[shape]
    for clip_norm in (None, 0.1):
        trained = Trained(sizes, ACTIVATIONS, rows, batch_rows, dtype, l2=0.1, clip_norm=clip_norm)
        assert trained.engine.plan.in_lanes == ("lanes" in shape)
        check(trained)


@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_of_a_gradient(shape):
    sizes, rows, _ = SHAPES[shape]
    check(Trained(sizes, ACTIVATIONS, rows, rows, purpose="gradient"))


@pytest.mark.parametrize("in_lanes", [False, True])
def test_units_that_are_dead_and_outputs_that_are_saturated(in_lanes):
    sizes = (4, 5, 4, 3) if in_lanes else (4, 40, 70, 3)
    trained = Trained(sizes, ["relu", "sigmoid", "identity"], 300, 300)
    assert trained.engine.plan.in_lanes == in_lanes
    model = trained.model
    model.weights["0.weight"][:, :2], model.weights["0.bias"][:2] = 0.0, -1.0
    model.weights["0.bias"][2:] = 1e3  # never zero
    model.weights["1.weight"][...] = 0.0
    model.weights["1.bias"][...] = 0.0
    model.weights["1.bias"][1] = -30.0
    trained.engine.load_parameters(model.parameters)
    trained.engine.begin_epoch(300, learning_rates=np.zeros(1))
    trained.engine.run_in_calls(1)
    row = check(trained)
    assert row["layer_dead_share"][0] == 2 / sizes[1]
    assert row["layer_saturated_share"][1] == 1 / sizes[2]


def test_how_much_a_step_changes():
    for sizes in ((7, 20, 9, 5, 3, 2), (70, 130, 65, 129, 33, 70)):  # some weights lie twice
        trained = Trained(sizes, ACTIVATIONS, 30, 30)
        statistics, row = LayerStatistics(trained.engine), empty_row(trained.network)
        before = trained.engine.snapshot()
        old = trained.model.parameters.copy()
        new = old + np.random.default_rng(0).normal(size=old.size)
        trained.engine.load_parameters(new)
        statistics.fill(row, before)
        expected, start = [], 0
        for i in range(len(sizes) - 1):
            size = sizes[i] * sizes[i + 1] + sizes[i + 1]
            part = slice(start, start + size)
            change = np.linalg.norm(new[part] - old[part])
            expected.append(change / np.linalg.norm(old[part]))
            start += size
        assert scaled_error(row["layer_update_ratio"], expected) < 1e-14
        whole = np.linalg.norm(new - old) / np.linalg.norm(old)
        after = trained.engine.snapshot()
        assert abs(statistics.update_ratio(before, after) / whole - 1) < 1e-14
        trained.engine.load_parameters(np.zeros_like(old))
        assert np.isnan(statistics.update_ratio(trained.engine.snapshot(), after))


def test_shuffled_rows_and_memory_of_the_caller():
    trained = Trained((3, 8, 2), ["tanh", "identity"], 50, 20)
    engine = trained.engine
    engine.begin_epoch(50, shuffle_seed=1, epoch=3, learning_rates=np.zeros(3))
    engine.run_in_calls(3)
    inputs = engine.read_rows("inputs")
    assert inputs.shape == (10, 3)
    assert {tuple(row) for row in inputs} < {tuple(row) for row in trained.X}
    out = np.full((20, 8), np.nan)
    found = engine.read_rows("0.output", out)
    assert np.shares_memory(found, out)
    assert np.isnan(out[10:]).all()
    expected = reference.forward(trained.pairs()[:1], ["tanh"], inputs)
    assert scaled_error(found, expected) < 1e-14


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_sums_in_blocks_are_those_of_whole_tensors(block, monkeypatch):
    """Wherever a block ends: within a tensor, between two, or where nothing is a parameter."""
    monkeypatch.setattr(layer_statistics, "BLOCK", block)
    shapes = [(3, 17), (40, 9), (2, 5)]  # thin and turned: with transposed copies between them
    network = fb.Network(17, [fb.Dense(units) for _, units in shapes])
    plan = build_plan(
        network, "train", "float32", 8, geometry("cpu"), loss=fb.Mse(), optimizer=fb.SGD()
    )
    members = layer_statistics.Members(plan)
    sums = layer_statistics.Sums(plan, members)
    slab = np.random.default_rng(1).normal(size=sums.numbers + 50).astype("float32")
    other = np.random.default_rng(2).normal(size=sums.numbers + 50).astype("float32")
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    for minus in (None, other):
        expected = np.zeros(len(shapes))
        for name, _ in network.parameters():
            tensor = tensors[name]
            place = slice(tensor.offset, tensor.offset + tensor.elements)
            part = slab[place].astype(float) - (0 if minus is None else minus[place].astype(float))
            expected[members.of(name)] += (part**2).sum()
        assert sums.of_slab(slab, minus) == pytest.approx(expected, rel=1e-13)
    assert len(sums.squares) <= block


@pytest.mark.parametrize("steps", [1, 7, 400, 10**6])
def test_layers_are_looked_at_after_so_much_work(steps):
    """After the first epoch, and then no more often than the work between two looks allows."""
    engines = RunEngines.__new__(RunEngines)
    engines.work_of_step, engines.work_between_looks = 1000, 900_000
    epochs = min(20_000, 4_000_000 // steps)
    due = [epoch for epoch in range(epochs) if engines.is_due(epoch, steps)]
    assert due[0] == 0
    work_of_epoch = steps * 1000
    assert len(due) - 1 == min(epochs * work_of_epoch // 900_000, epochs - 1)
    gaps = np.diff(due[1:])
    assert (gaps * work_of_epoch > 900_000 - work_of_epoch).all()


def test_a_look_counts_what_there_is_to_see():
    """More of anything is more work, on every device; and so is a larger step."""
    for work in WORK.values():
        least = work.of_look(2, 1000, 1000)
        assert all(
            work.of_look(*more) > least
            for more in ((3, 1000, 1000), (2, 1001, 1000), (2, 1000, 1001))
        )
        assert work.of_step(10**9) > work.of_step(0) > 0
    network = fb.mlp(3, 40, 5, activation="relu")
    plan = build_plan(
        network, "train", "float32", 8, geometry("cpu"), loss=fb.Mse(), optimizer=fb.SGD()
    )
    layers, parameters, outputs = LayerStatistics(create_engine(plan)).numbers
    assert (layers, outputs) == (2, 8 * 48)
    assert network.parameter_count <= parameters <= sum(t.elements for t in plan.tensors)


def test_numbers_that_are_not_finite_go_into_the_results():
    trained = Trained((3, 4, 2), ["relu", "identity"], 10, 10)
    trained.model.parameters[0] = np.nan
    trained.engine.load_parameters(trained.model.parameters)
    trained.engine.begin_epoch(10, learning_rates=np.zeros(1))
    trained.engine.run_in_calls(1)
    assert not np.isfinite(trained.engine.scalars[Scalar.LOSS])
    statistics, row = LayerStatistics(trained.engine), empty_row(trained.network)
    statistics.fill(row)
    assert np.isnan(row["layer_parameter_norm"][0])
    assert np.isfinite(row["layer_parameter_norm"][1])
    assert row["layer_dead_share"][0] <= 0.75  # the unit that is NaN is not idle
