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
