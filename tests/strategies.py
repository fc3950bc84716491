"""Random networks and data for the property tests."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import strategies as st

import fastbp as fb
from fastbp.activations import Activation
from fastbp.losses import Loss

# 1, primes, and the edges of the product's tile (4 rows x 64 columns) and of a vector.
WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 37, 61, 63, 64, 65, 67, 70]
BATCHES = [1, 2, 3, 4, 5, 7, 31, 32, 33, 63, 64, 65, 97, 127, 128, 129, 200]

# Every loss as it is by default, and those that have a law or a kernel more.
EVERY_LOSS = [
    *map(Loss.resolve, Loss.names()),
    fb.BinaryCrossEntropy(label_smoothing=0.3),
    fb.CrossEntropy(label_smoothing=0.2),
]
every_loss = pytest.mark.parametrize("loss", EVERY_LOSS, ids=repr)


def settings_of(loss):
    """A loss's settings, by name."""
    return {key: value for key, value in loss.describe().items() if key != "name"}


@dataclass(frozen=True)
class Case:
    """A network with data: everything that fastbp and the reference need."""

    sizes: tuple
    activations: tuple
    loss: str
    rows: int
    seed: int

    @property
    def network(self):
        layers = [
            fb.Dense(units, activation)
            for units, activation in zip(self.sizes[1:], self.activations, strict=True)
        ]
        return fb.Network(self.sizes[0], layers)

    def model(self, dtype="float64"):
        model = fb.Model(self.network, dtype=dtype)
        for name, values in zip(model.weights, self.flat_weights(), strict=True):
            model.weights[name][...] = values
        return model

    def generator(self, stream):
        return np.random.Generator(np.random.Philox(key=[self.seed, stream]))

    def weights(self):
        """[(W, b), ...] in float64, scaled so that signals neither vanish nor explode."""
        rng = self.generator(1)
        pairs = zip(self.sizes[:-1], self.sizes[1:], strict=True)
        return [
            (rng.normal(size=(m, n)) * np.sqrt(1.5 / m), 0.1 * rng.normal(size=n)) for m, n in pairs
        ]

    def flat_weights(self):
        return [array for pair in self.weights() for array in pair]

    def inputs(self):
        return self.generator(2).normal(size=(self.rows, self.sizes[0]))

    def targets(self):
        return make_targets(self.loss, self.rows, self.sizes[-1], self.generator(3))

    def sample_weight(self):
        return self.generator(4).uniform(0.1, 2.0, self.rows)


@dataclass(frozen=True)
class LayeredCase:
    """The same for a network of layers of every kind, as tests/reference_layers.py has them."""

    inputs: int
    layers: tuple
    loss: str
    rows: int
    seed: int

    generator = Case.generator
    sample_weight = Case.sample_weight

    @property
    def network(self):
        return fb.Network(self.inputs, [made(layer) for layer in self.layers])

    def model(self, dtype="float64"):
        model = fb.Model(self.network, dtype=dtype)
        for name, values in zip(model.weights, self.parameters(), strict=True):
            model.weights[name][...] = values
        return model

    def parameters(self):
        """Arrays in storage order, in float64, such that signals neither vanish nor explode."""
        rng = self.generator(1)
        found = []
        for name, specification in self.network.parameters():
            values = rng.normal(size=specification.shape)
            if name.endswith("weight"):
                found.append(values * np.sqrt(1.5 / specification.shape[0]))
            else:
                found.append(0.1 * values + float(name.endswith("gain")))
        return found

    def draw_inputs(self):
        return self.generator(2).normal(size=(self.rows, self.inputs))

    def targets(self):
        return make_targets(self.loss, self.rows, self.network.outputs, self.generator(3))


def made(layer):
    """A layer of fastbp's that the reference has as a tuple."""
    kind, *settings = layer
    if kind == "dense":
        return fb.Dense(*settings)
    if kind == "residual":
        return fb.Residual([made(member) for member in settings[0]])
    return {"dropout": fb.Dropout, "layer_norm": fb.LayerNorm}[kind](*settings)


LAYER_WIDTHS = [1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 65, 70, 130]
RATES = [0.0, 0.1, 0.5, 0.9]


@st.composite
def sequences(draw, inputs, depth, outputs=None):
    """Layers in a random order, blocks nested in blocks; the reference's form, and the last size.

    A layer has the form ``("dense", units, activation)``. Rows of fewer than three values are not
    normalised: what is left of them is a sign, and its derivatives are all rounding.
    """
    found, size = [], inputs
    for _ in range(draw(st.integers(1, 4))):
        kinds = ["dense", "dense", "dropout"]
        kinds += ["layer_norm"] * 2 * (size >= 3) + ["residual"] * 2 * (depth > 0)
        kind = draw(st.sampled_from(kinds))
        if kind == "dense":
            size = draw(st.sampled_from(LAYER_WIDTHS))
            found.append(("dense", size, draw(st.sampled_from(Activation.names()))))
        elif kind == "dropout":
            found.append(("dropout", draw(st.sampled_from(RATES))))
        elif kind == "layer_norm":
            found.append(("layer_norm", draw(st.sampled_from([1e-5, 1e-3, 0.1]))))
        else:
            found.append(("residual", draw(sequences(size, depth - 1, size))[0]))
    has_parameters = any(kind != "dropout" for kind, *_ in found)
    if not has_parameters or (outputs is not None and size != outputs):
        size = outputs or draw(st.sampled_from(LAYER_WIDTHS))
        place = draw(st.sampled_from([len(found)] if has_parameters else range(len(found) + 1)))
        found.insert(place, ("dense", size, draw(st.sampled_from(Activation.names()))))
    return tuple(found), size


@st.composite
def layered_cases(draw, losses=None, most_rows=200):
    """Layers of every kind, mixed and nested, any loss, batches of 1 to 200 rows."""
    inputs = draw(st.sampled_from(LAYER_WIDTHS))
    layers, _ = draw(sequences(inputs, 2))
    return LayeredCase(
        inputs=inputs,
        layers=layers,
        loss=draw(st.sampled_from(losses or Loss.names())),
        rows=draw(st.sampled_from([rows for rows in BATCHES if rows <= most_rows])),
        seed=draw(st.integers(0, 2**32)),
    )


def make_targets(loss, rows, outputs, rng):
    """Targets that a loss allows."""
    shape = (rows, outputs)
    kind = Loss.registry[loss].targets
    if kind == "class":
        return rng.integers(0, outputs, rows)
    if kind == "sign":
        return rng.choice([-1.0, 1.0], shape)
    if kind == "count":
        return rng.poisson(2.0, shape).astype(float)
    if kind == "probability":
        return rng.uniform(0.0, 1.0, shape)
    return rng.normal(size=shape)


@st.composite
def cases(draw, activations=None, losses=None, depths=(1, 5), output_activation=None):
    """Depth 1 to 5, widths 1 to 70, batches 1 to 200, any activation (also mixed) x any loss."""
    depth = draw(st.integers(*depths))
    sizes = tuple(draw(st.sampled_from(WIDTHS)) for _ in range(depth + 1))
    names = st.sampled_from(activations or Activation.names())
    chosen = [draw(names) for _ in range(depth)]
    if output_activation is not None:
        chosen[-1] = output_activation
    return Case(
        sizes=sizes,
        activations=tuple(chosen),
        loss=draw(st.sampled_from(losses or Loss.names())),
        rows=draw(st.sampled_from(BATCHES)),
        seed=draw(st.integers(0, 2**32)),
    )


def scaled_error(found, expected):
    """max |g - g*| / max(1, max |g*|)."""
    expected = np.asarray(expected)
    if expected.size == 0:
        return 0.0
    return float(np.max(np.abs(found - expected)) / max(1.0, np.max(np.abs(expected))))
