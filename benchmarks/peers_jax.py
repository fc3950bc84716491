"""JAX as a contestant: an epoch is one compiled `lax.scan`, the shuffle inside, state donated."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workloads import Workload, initial_parameters, make_data

__all__ = ["Contestant", "versions"]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
ACTIVATIONS = {"tanh": jnp.tanh, "relu": lambda z: jnp.maximum(z, 0)}


def versions() -> dict[str, str]:
    """What is measured."""
    import jaxlib

    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__}


def forward(work: Workload, parameters: Any, X: Any) -> Any:
    """The outputs of the network."""
    activation = ACTIVATIONS[work.activation]
    for weight, bias in parameters[:-1]:
        X = activation(X @ weight + bias)
    weight, bias = parameters[-1]
    return X @ weight + bias


def loss(work: Workload, parameters: Any, X: Any, y: Any) -> Any:
    """The mean loss of some rows."""
    outputs = forward(work, parameters, X)
    if work.loss == "mse":
        return jnp.mean((outputs - y) ** 2)
    chosen = jnp.take_along_axis(outputs, y[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(outputs, axis=1) - chosen)


def step(work: Workload, state: Any, X: Any, y: Any) -> Any:
    """One step of the optimizer, with the formulas that PyTorch and fastbp have."""
    parameters, first, second, count = state
    gradient = jax.grad(functools.partial(loss, work))(parameters, X, y)
    rate, combine = work.learning_rate, jax.tree.map
    if work.optimizer == "sgd":
        return combine(lambda p, g: p - rate * g, parameters, gradient), first, second, count
    count = count + 1
    first = combine(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, gradient)
    second = combine(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, gradient)
    size, root = rate / (1 - BETA1**count), 1 / jnp.sqrt(1 - BETA2**count)
    parameters = combine(
        lambda p, m, v: p - size * m / (jnp.sqrt(v) * root + EPSILON), parameters, first, second
    )
    return parameters, first, second, count


def epoch(work: Workload, shuffle: bool, state: Any, key: Any, X: Any, y: Any) -> Any:
    """All batches of an epoch; returns the state and the next key."""
    rows, batch = X.shape[0], work.batch_size
    key, used = jax.random.split(key)
    order = jax.random.permutation(used, rows) if shuffle else jnp.arange(rows)

    def body(state: Any, index: Any) -> Any:
        return step(work, state, X[index], y[index]), None

    # Steps of a few rows are so short that the loop itself is felt: four to a round is the fastest
    # of 1, 2, 4 and 8 there, and no gain for larger batches.
    unroll = 4 if batch <= 32 else 1
    state, _ = jax.lax.scan(body, state, order.reshape(rows // batch, batch), unroll=unroll)
    return state, key


class Contestant:
    """Trains a workload with one compiled call an epoch."""

    def __init__(self, work: Workload, threads: int, dtype: str) -> None:
        # The number of threads is the process's affinity and flags, set before JAX was imported.
        self.work = work
        X, y = make_data(work, dtype)
        self.X = jnp.asarray(X)
        self.y = jnp.asarray(y.astype(np.int32) if y.dtype == np.int64 else y)
        self.reset()

    def reset(self) -> None:
        """The parameters that all libraries start from, and a new optimizer."""
        parameters = [(jnp.asarray(w), jnp.asarray(b)) for w, b in initial_parameters(self.work)]
        zeros = [jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
        if self.work.optimizer == "sgd":
            zeros = [(), ()]
        self.state = (parameters, *zeros, jnp.zeros((), jnp.float32))
        self.key = jax.random.key(0)

    def compiled(self, rows: int, shuffle: bool) -> Any:
        function = functools.partial(epoch, self.work, shuffle)
        jitted = jax.jit(function, donate_argnums=(0, 1))
        return jitted.lower(self.state, self.key, self.X[:rows], self.y[:rows]).compile()

    def compile(self) -> None:
        """Tracing and compiling of the epoch, ahead of time."""
        self.run_epoch = self.compiled(self.work.rows, shuffle=True)

    def train(self, epochs: int, latest: float) -> int:
        """Some epochs over all rows, in a new order each; returns how many rows were trained on."""
        for _ in range(epochs):
            self.state, self.key = self.run_epoch(self.state, self.key, self.X, self.y)
        jax.block_until_ready(self.state)
        return epochs * self.work.rows

    def loss_after(self, rows: int, epochs: int) -> tuple[float, float]:
        """The loss of the first rows before and after some epochs over them, in their order."""
        self.reset()
        X, y = self.X[:rows], self.y[:rows]
        objective = jax.jit(functools.partial(loss, self.work))
        before = float(objective(self.state[0], X, y))
        run = self.compiled(rows, shuffle=False)
        state, key = self.state, self.key
        for _ in range(epochs):
            state, key = run(state, key, X, y)
        after = float(objective(state[0], X, y))
        self.reset()
        return before, after

    def predict(self) -> None:
        """All rows in one compiled call."""
        if not hasattr(self, "predictor"):
            self.predictor = jax.jit(functools.partial(forward, self.work))
        self.predictor(self.state[0], self.X).block_until_ready()

    def predict_first(self, rows: int):
        """A call that predicts the first rows, to be timed."""
        X, parameters = self.X[:rows], self.state[0]
        predictor = jax.jit(functools.partial(forward, self.work))
        return lambda: predictor(parameters, X).block_until_ready()
