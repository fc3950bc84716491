"""Networks of every layer kind once more, naively: NumPy that imports nothing from fastbp.

A layer is a tuple: ``("dense", activation)``, ``("dropout", rate)``, ``("layer_norm", epsilon)`` or
``("residual", layers)``. Parameters are a list of arrays in storage order. As in `reference`,
forward runs on complex numbers too.
"""

import itertools
import math

import numpy as np
import reference

WORD = 2**32
PARAMETERS = {"dense": 2, "dropout": 0, "layer_norm": 2}


# The masks of dropout, with Python's integers.


def philox(counter, key):
    """Philox-4x32-10."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], WORD)
        high1, low1 = divmod(0xCD9E8D57 * c[2], WORD)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % WORD, (k[1] + 0xBB67AE85) % WORD]
    return c


def mixed(x):
    """A hash of 32-bit words, in an array of 64-bit ones."""
    x = np.asarray(x, dtype=np.uint64)
    x = x ^ (x >> np.uint64(16))
    x = x * np.uint64(0x7FEB352D) % np.uint64(WORD)
    x = x ^ (x >> np.uint64(15))
    x = x * np.uint64(0x846CA68B) % np.uint64(WORD)
    return x ^ (x >> np.uint64(16))


def kept(seed, epoch, layer, positions, columns, rate):
    """Which values stay: (rows, columns), by the rows' positions in the epoch."""
    k0, k1, k2, _ = (
        np.uint64(word)
        for word in philox(
            (0, epoch % WORD, epoch // WORD, 0x44524F50), (seed % WORD, seed // WORD)
        )
    )
    position = np.asarray(positions, dtype=np.uint64)
    word = mixed(position % np.uint64(WORD) ^ k0)
    word = mixed(word ^ position // np.uint64(WORD) ^ k1)
    golden = 0x9E3779B9
    word = mixed((word + np.uint64(layer * golden % WORD)) % np.uint64(WORD)) ^ k2
    column = np.array([j * golden % WORD for j in range(columns)], dtype=np.uint64)
    words = mixed(column[None, :] ^ word[:, None])
    return words >= np.uint64(min(round(rate * WORD), WORD - 1))


class Masks:
    """The masks of one batch; each dropout asks for its own, in the order of the layers."""

    def __init__(self, seed, epoch, positions):
        self.seed, self.epoch, self.positions = seed, epoch, positions
        self.layers = itertools.count()

    def __call__(self, columns, rate):
        if rate == 0:
            return 1.0
        layer = next(self.layers)
        mask = kept(self.seed, self.epoch, layer, self.positions, columns, rate)
        return mask / (1 - rate)


# Layers: each returns its outputs and how to go back, delta -> (delta before, gradients).


def dense(settings, parameters, x, masks):
    (activation,), (W, b) = settings, parameters
    z = x @ W + b

    def back(delta):
        delta = delta * reference.derivative(reference.ACTIVATIONS[activation], z)
        return delta @ W.T, [x.T @ delta, delta.sum(axis=0)]

    return reference.ACTIVATIONS[activation](z), back


def dropout(settings, parameters, x, masks):
    factor = 1.0 if masks is None else masks(x.shape[1], *settings)
    return x * factor, lambda delta: (delta * factor, [])


def layer_norm(settings, parameters, x, masks):
    (epsilon,), (gain, bias) = settings, parameters
    centred = x - x.mean(axis=1, keepdims=True)
    scale = 1 / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + epsilon)
    normalized = centred * scale

    def back(delta):
        through = delta * gain
        mean = through.mean(axis=1, keepdims=True)
        slope = (through * normalized).mean(axis=1, keepdims=True)
        before = (through - mean - normalized * slope) * scale
        return before, [(delta * normalized).sum(axis=0), delta.sum(axis=0)]

    return normalized * gain + bias, back


def residual(settings, parameters, x, masks):
    y, back_through = apply(settings[0], parameters, x, masks)

    def back(delta):
        before, gradients = back_through(delta)
        return delta + before, gradients

    return x + y, back


KINDS = {"dense": dense, "dropout": dropout, "layer_norm": layer_norm, "residual": residual}


def parameter_count(layer):
    kind, *settings = layer
    if kind == "residual":
        return sum(map(parameter_count, settings[0]))
    return PARAMETERS[kind]


def apply(layers, parameters, x, masks=None):
    """Outputs of a sequence of layers, and how to go back through it."""
    steps, start = [], 0
    for layer in layers:
        kind, *settings = layer
        count = parameter_count(layer)
        x, back = KINDS[kind](settings, parameters[start : start + count], x, masks)
        steps.append(back)
        start += count

    def back_through(delta):
        gradients = []
        for back in reversed(steps):
            delta, found = back(delta)
            gradients = found + gradients
        return delta, gradients

    return x, back_through


def backpropagation(layers, parameters, X, targets, name, sample_weight=None, masks=None):
    """Loss, gradients and the gradient by X."""
    outputs, back = apply(layers, parameters, np.asarray(X, dtype=float), masks)
    w = np.ones(len(outputs)) if sample_weight is None else np.asarray(sample_weight, dtype=float)
    loss = reference.batch_loss(name, outputs, targets, w)
    delta = reference.output_derivative(name, outputs, targets) * (w / w.sum())[:, None]
    by_inputs, gradients = back(delta)
    return loss, gradients, by_inputs


def complex_step_gradient(
    layers, parameters, X, targets, name, place, index, sample_weight=None, masks=None
):
    """d batch loss / d one number of the parameter tensor `place`."""
    stepped = [array.astype(complex) for array in parameters]
    stepped[place][index] += 1j * reference.STEP
    outputs, _ = apply(layers, stepped, np.asarray(X, dtype=complex), masks)
    return np.imag(reference.batch_loss(name, outputs, targets, sample_weight)) / reference.STEP


def train(
    layers,
    parameters,
    X,
    targets,
    name,
    learning_rate,
    epochs,
    seed,
    sample_weight=None,
    clip_norm=None,
):
    """Gradient descent, one step for each batch; `epochs` is a list of lists of row numbers.

    Returns the parameters and each step's objective.
    """
    parameters = [array.astype(float) for array in parameters]
    objectives = []
    for epoch, batches in enumerate(epochs):
        position = 0
        for rows in batches:
            masks = Masks(seed, epoch, range(position, position + len(rows)))
            position += len(rows)
            w = None if sample_weight is None else sample_weight[rows]
            loss, gradients, _ = backpropagation(
                layers, parameters, X[rows], targets[rows], name, w, masks
            )
            objectives.append(loss)
            norm = math.sqrt(sum((g * g).sum() for g in gradients))
            scale = 1.0 if clip_norm is None else min(1.0, clip_norm / norm)
            parameters = [
                p - learning_rate * scale * g for p, g in zip(parameters, gradients, strict=True)
            ]
    return parameters, objectives
