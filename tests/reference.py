"""The mathematics of fastbp once more, naively: float64 NumPy that imports nothing from fastbp.

Everything is written for complex arguments as well (branches go by the real part; no abs, no
conj), so that complex-step differentiation, f'(x) = Im f(x + ih) / h with h far below rounding,
gives derivatives that are exact to rounding. Source: Squire and Trapp, Using complex variables to
estimate derivatives of real functions, 1998.
"""

import math

import numpy as np
from scipy.special import erf

STEP = 1e-30


def where(condition, yes, no):
    return np.where(condition, yes, no)


def magnitude(z):
    return where(z.real < 0, -z, z)


def sigmoid(z):
    decayed = np.exp(-magnitude(z))
    return where(z.real >= 0, 1 / (1 + decayed), decayed / (1 + decayed))


def softplus(z):
    return np.log1p(np.exp(-magnitude(z))) + where(z.real > 0, z, 0)


def clip(z, low, high):
    return where(z.real <= low, low, where(z.real >= high, high, z))


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": lambda z: where(z.real > 0, z, 0),
    "leaky_relu": lambda z: where(z.real > 0, z, 0.01 * z),
    "elu": lambda z: where(z.real > 0, z, np.expm1(where(z.real > 0, 0, z))),
    "selu": lambda z: (
        SELU_SCALE * where(z.real > 0, z, SELU_ALPHA * np.expm1(where(z.real > 0, 0, z)))
    ),
    "gelu": lambda z: z * 0.5 * (1 + erf(z / math.sqrt(2))),
    "gelu_tanh": lambda z: (
        0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)))
    ),
    "silu": lambda z: z * sigmoid(z),
    "mish": lambda z: z * np.tanh(softplus(z)),
    "softplus": softplus,
    "softsign": lambda z: z / (1 + magnitude(z)),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "hardtanh": lambda z: clip(z, -1, 1),
    "relu6": lambda z: clip(z, 0, 6),
    "hardswish": lambda z: z * clip(z + 3, 0, 6) / 6,
    "sine": np.sin,
}


def huber(o, y, delta=1.0):
    r = o - y
    m = magnitude(r)
    return where(m.real <= delta, r * r / 2, delta * (m - delta / 2))


def log_cosh(o, y):
    m = magnitude(o - y)
    return m + np.log1p(np.exp(-2 * m)) - math.log(2)


def quantile(o, y, quantile=0.5):
    r = y - o
    return where(r.real > 0, quantile * r, (quantile - 1) * r)


def binary_cross_entropy(o, y, label_smoothing=0.0):
    y = y * (1 - label_smoothing) + label_smoothing / 2
    return softplus(o) - o * y


def hinge(o, y):
    margin = 1 - y * o
    return where(margin.real > 0, margin, 0)


ELEMENTWISE_LOSSES = {
    "mse": lambda o, y: (o - y) * (o - y),
    "mae": lambda o, y: magnitude(o - y),
    "huber": huber,
    "log_cosh": log_cosh,
    "quantile": quantile,
    "poisson": lambda o, y: np.exp(o) - y * o,
    "binary_cross_entropy": binary_cross_entropy,
    "hinge": hinge,
}
LOSSES = [*ELEMENTWISE_LOSSES, "cross_entropy"]


def row_losses(name, outputs, targets, **settings):
    """One loss for each row."""
    if name == "cross_entropy":
        largest = outputs.real.max(axis=1, keepdims=True)
        total = np.log(np.exp(outputs - largest).sum(axis=1)) + largest[:, 0]
        smoothing = settings.get("label_smoothing", 0.0)
        of_label = total - outputs[np.arange(len(outputs)), targets]
        return (1 - smoothing) * of_label + smoothing * (total - outputs.mean(axis=1))
    targets = np.asarray(targets).reshape(outputs.shape)
    return ELEMENTWISE_LOSSES[name](outputs, targets, **settings).mean(axis=1)


def derivative(function, z):
    """The derivative of an element-wise function, by complex step."""
    return np.imag(function(np.asarray(z, dtype=float) + 1j * STEP)) / STEP


def forward(weights, activations, X):
    """Outputs of a network; `weights` is [(W, b), ...]."""
    a = np.asarray(X)
    for (W, b), activation in zip(weights, activations, strict=True):
        a = ACTIVATIONS[activation](a @ W + b)
    return a


def batch_loss(name, outputs, targets, sample_weight=None, **settings):
    """sum_i w_i loss_i / sum_i w_i."""
    losses = row_losses(name, outputs, targets, **settings)
    w = np.ones(len(losses)) if sample_weight is None else np.asarray(sample_weight)
    return (w * losses).sum() / w.sum()


def output_derivative(name, outputs, targets, **settings):
    """d row loss / d outputs, one output at a time, by complex step."""
    result = np.empty(outputs.shape)
    for j in range(outputs.shape[1]):
        stepped = outputs.astype(complex)
        stepped[:, j] += 1j * STEP
        result[:, j] = np.imag(row_losses(name, stepped, targets, **settings)) / STEP
    return result


def backpropagation(weights, activations, X, targets, name, sample_weight=None, **settings):
    """Loss, gradients [(dW, db), ...] and the gradient by X, by the chain rule."""
    a, inputs, slopes = np.asarray(X, dtype=float), [], []
    for (W, b), activation in zip(weights, activations, strict=True):
        z = a @ W + b
        inputs.append(a)
        slopes.append(derivative(ACTIVATIONS[activation], z))
        a = ACTIVATIONS[activation](z)
    w = np.ones(len(a)) if sample_weight is None else np.asarray(sample_weight, dtype=float)
    loss = batch_loss(name, a, targets, w, **settings)
    delta = output_derivative(name, a, targets, **settings) * (w / w.sum())[:, None]
    gradients = []
    for (W, _), a, slope in zip(weights[::-1], inputs[::-1], slopes[::-1], strict=True):
        delta = delta * slope
        gradients.append((a.T @ delta, delta.sum(axis=0)))
        delta = delta @ W.T
    return loss, gradients[::-1], delta


def complex_step_gradient(
    weights, activations, X, targets, name, layer, which, index, sample_weight=None, **settings
):
    """d batch loss / d one parameter: `which` 0 is W, 1 is b."""
    stepped = [(W.astype(complex), b.astype(complex)) for W, b in weights]
    stepped[layer][which][index] += 1j * STEP
    outputs = forward(stepped, activations, np.asarray(X, dtype=complex))
    return np.imag(batch_loss(name, outputs, targets, sample_weight, **settings)) / STEP


# Optimizers: one parameter array, one step at a time; semantics of PyTorch 2.13.


def sgd(p, g, s, t, is_weight, learning_rate=0.01, momentum=0.0, nesterov=False):
    s["v"] = momentum * s.get("v", 0.0) + g
    return p - learning_rate * (g + momentum * s["v"] if nesterov else s["v"])


def rmsprop(
    p, g, s, t, is_weight, learning_rate=0.01, rho=0.99, momentum=0.0, centered=False, epsilon=1e-8
):
    s["s"] = rho * s.get("s", 0.0) + (1 - rho) * g * g
    size = s["s"]
    if centered:
        s["m"] = rho * s.get("m", 0.0) + (1 - rho) * g
        size = np.maximum(size - s["m"] ** 2, 0)
    step = g / (np.sqrt(size) + epsilon)
    if momentum:
        s["v"] = momentum * s.get("v", 0.0) + step
        step = s["v"]
    return p - learning_rate * step


def adagrad(p, g, s, t, is_weight, learning_rate=0.01, epsilon=1e-10):
    s["s"] = s.get("s", 0.0) + g * g
    return p - learning_rate * g / (np.sqrt(s["s"]) + epsilon)


def adadelta(p, g, s, t, is_weight, learning_rate=1.0, rho=0.9, epsilon=1e-6):
    s["s"] = rho * s.get("s", 0.0) + (1 - rho) * g * g
    step = np.sqrt(s.get("u", 0.0) + epsilon) / np.sqrt(s["s"] + epsilon) * g
    s["u"] = rho * s.get("u", 0.0) + (1 - rho) * step * step
    return p - learning_rate * step


def moments(g, s, beta1, beta2):
    s["m"] = beta1 * s.get("m", 0.0) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", 0.0) + (1 - beta2) * g * g
    return s["m"], s["v"]


def adam(
    p, g, s, t, is_weight, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, amsgrad=False
):
    m, v = moments(g, s, beta1, beta2)
    if amsgrad:
        v = s["largest"] = np.maximum(s.get("largest", 0.0), v)
    size = np.sqrt(v / (1 - beta2**t)) + epsilon
    return p - learning_rate * (m / (1 - beta1**t)) / size


def adamw(p, g, s, t, is_weight, learning_rate=1e-3, weight_decay=0.01, **settings):
    decayed = p - learning_rate * weight_decay * p if is_weight else p
    return adam(decayed, g, s, t, is_weight, learning_rate, **settings)


def adamax(p, g, s, t, is_weight, learning_rate=2e-3, beta1=0.9, beta2=0.999, epsilon=1e-8):
    s["m"] = beta1 * s.get("m", 0.0) + (1 - beta1) * g
    s["u"] = np.maximum(beta2 * s.get("u", 0.0), np.abs(g) + epsilon)
    return p - learning_rate / (1 - beta1**t) * s["m"] / s["u"]


def nadam(
    p,
    g,
    s,
    t,
    is_weight,
    learning_rate=2e-3,
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-8,
    momentum_decay=4e-3,
):
    m, v = moments(g, s, beta1, beta2)
    mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    following = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    s["product"] = s.get("product", 1.0) * mu
    size = np.sqrt(v / (1 - beta2**t)) + epsilon
    p = p - learning_rate * (1 - mu) / (1 - s["product"]) * g / size
    return p - learning_rate * following / (1 - s["product"] * following) * m / size


def radam(p, g, s, t, is_weight, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8):
    m, v = moments(g, s, beta1, beta2)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    m = m / (1 - beta1**t)
    if length <= 5:
        return p - learning_rate * m
    rectification = math.sqrt(
        (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    )
    return p - learning_rate * m * rectification * math.sqrt(1 - beta2**t) / (np.sqrt(v) + epsilon)


def rprop(
    p,
    g,
    s,
    t,
    is_weight,
    learning_rate=0.01,
    increase=1.2,
    decrease=0.5,
    minimum=1e-6,
    maximum=50.0,
):
    agreement = g * s.get("previous", 0.0)
    size = s.get("size", np.full_like(p, learning_rate))
    factor = np.where(agreement > 0, increase, np.where(agreement < 0, decrease, 1.0))
    s["size"] = np.clip(size * factor, minimum, maximum)
    s["previous"] = np.where(agreement < 0, 0.0, g)
    return p - np.sign(s["previous"]) * s["size"]


def lion(p, g, s, t, is_weight, learning_rate=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0):
    m = s.get("m", 0.0)
    s["m"] = beta2 * m + (1 - beta2) * g
    decayed = p - learning_rate * weight_decay * p if is_weight else p
    return decayed - learning_rate * np.sign(beta1 * m + (1 - beta1) * g)


OPTIMIZERS = {
    function.__name__: function
    for function in (
        sgd,
        rmsprop,
        adagrad,
        adadelta,
        adam,
        adamw,
        adamax,
        nadam,
        radam,
        rprop,
        lion,
    )
}


def train(
    weights,
    activations,
    X,
    targets,
    name,
    optimizer,
    settings,
    batches,
    sample_weight=None,
    clip_norm=None,
    clip_value=None,
    l1=0.0,
    l2=0.0,
):
    """Train on a list of batches (arrays of row numbers); return weights and each step's objective."""
    weights = [(W.copy(), b.copy()) for W, b in weights]
    states = [({}, {}) for _ in weights]
    objectives = []
    for t, rows in enumerate(batches, start=1):
        w = None if sample_weight is None else sample_weight[rows]
        loss, gradients, _ = backpropagation(weights, activations, X[rows], targets[rows], name, w)
        penalty = sum(l1 * np.abs(W).sum() + 0.5 * l2 * (W * W).sum() for W, _ in weights)
        objectives.append(loss + penalty)
        gradients = [
            (dW + l2 * W + l1 * np.sign(W), db)
            for (dW, db), (W, _) in zip(gradients, weights, strict=True)
        ]
        norm = math.sqrt(sum((dW**2).sum() + (db**2).sum() for dW, db in gradients))
        scale = 1.0 if clip_norm is None else min(1.0, clip_norm / norm)
        limit = math.inf if clip_value is None else clip_value
        for k, (parameters, pair) in enumerate(zip(weights, gradients, strict=True)):
            weights[k] = tuple(
                OPTIMIZERS[optimizer](
                    p, np.clip(g * scale, -limit, limit), states[k][i], t, i == 0, **settings
                )
                for i, (p, g) in enumerate(zip(parameters, pair, strict=True))
            )
    return weights, objectives
