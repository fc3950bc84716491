"""Faults in the laws of activations, losses and optimizers, and in the schedules."""

from __future__ import annotations

from benchmarks.reliability.fault_tables import Fault, in_rooms

__all__ = ["LAW_FAULTS"]

LAW_FAULTS: list[Fault] = in_rooms(
    (
        "activations.py",
        "laws",
        [
            (
                "tanh: the sign in its derivative",
                "return value, multiply_add(-value, value, constant(1.0, z))",
                "return value, multiply_add(value, value, constant(1.0, z))",
            ),
            (
                "gelu: half of the product rule",
                "return z * distribution, distribution + z * density",
                "return z * distribution, distribution",
            ),
            (
                "silu: a factor z is missing",
                "return z * gate, gate * (one + z * (one - gate))",
                "return z * gate, gate * (one + (one - gate))",
            ),
            (
                "relu6: the derivative beyond 6",
                "if z >= six:\n            return six, zero",
                "if z >= six:\n            return six, constant(1.0, z)",
            ),
            (
                "hardswish: a term of the derivative",
                "return z * (z + three) * sixth, (z + z + three) * sixth",
                "return z * (z + three) * sixth, (z + three) * sixth",
            ),
            (
                "selu: the derivative below zero is constant",
                "(below + scaled_alpha if z <= zero else scale),",
                "(scaled_alpha if z <= zero else scale),",
            ),
            (
                "elu: the derivative takes alpha for 1",
                "(below + alpha if z <= zero else one)",
                "(below + one if z <= zero else one)",
            ),
            (
                "leaky relu: the derivative has the default slope",
                "(slope if z <= zero else one)",
                "(constant(0.01, z) if z <= zero else one)",
            ),
            (
                "mish: the inner derivative is missing",
                "gate + z * (one - gate * gate) * sigmoid(z)",
                "gate + z * (one - gate * gate)",
            ),
            (
                "softsign: the derivative is not squared",
                "return z * shrink, shrink * shrink",
                "return z * shrink, shrink",
            ),
            (
                "sine: the sign of its derivative",
                "return sin(z), cos(z)",
                "return sin(z), -cos(z)",
            ),
        ],
    ),
    (
        "losses.py",
        "laws",
        [
            (
                "mse: the factor 2",
                "return residual * residual, residual + residual",
                "return residual * residual, residual",
            ),
            (
                "huber: the far derivative takes delta for 1",
                "return delta * (residual - half * delta), delta",
                "return delta * (residual - half * delta), constant(1.0, output)",
            ),
            (
                "quantile: the derivative of the other side",
                "return (quantile - one) * residual, one - quantile",
                "return (quantile - one) * residual, quantile",
            ),
            (
                "log-cosh: the sign",
                "constant(0.69314718055994530942, output)), tanh(residual)",
                "constant(0.69314718055994530942, output)), -tanh(residual)",
            ),
            (
                "poisson: the target is missing in the derivative",
                "return rate - target * output, rate - target",
                "return rate - target * output, rate",
            ),
            (
                "hinge: the sign",
                "(zero if margin <= zero else -target)",
                "(zero if margin <= zero else target)",
            ),
        ],
    ),
    (
        "optimizers/steepest.py",
        "optimizers",
        [
            (
                "momentum is not carried",
                "return parameter - learning_rate * velocity, (velocity,)",
                "return parameter - learning_rate * velocity, (gradient,)",
            ),
            (
                "nesterov: the velocity is not damped",
                "(gradient + momentum * velocity), (velocity,)",
                "(gradient + velocity), (velocity,)",
            ),
        ],
    ),
    (
        "optimizers/moments.py",
        "optimizers",
        [
            (
                "adam: the bias correction is one step ahead",
                "beta1, beta2, epsilon, _ = settings\n"
                "    step_size = learning_rate / (1.0 - power(beta1, step))",
                "beta1, beta2, epsilon, _ = settings\n"
                "    step_size = learning_rate / (1.0 - power(beta1, step + 1.0))",
            ),
            (
                "adam: epsilon below the root",
                "first / (sqrt(second) * scale + epsilon), (first, second)",
                "first / (sqrt(second + epsilon) * scale), (first, second)",
            ),
            (
                "amsgrad: the last moment, not the largest",
                "largest = largest if second <= largest else second",
                "largest = second",
            ),
            (
                "adamw: the decay does not follow the learning rate",
                "decay = learning_rate * weight_decay",
                "decay = weight_decay",
            ),
            (
                "adamax: the size does not fade",
                "faded = beta2 * size",
                "faded = size",
            ),
            (
                "nadam: the next step's momentum is this one's",
                "power(0.96, (step + 1.0) * momentum_decay)",
                "power(0.96, step * momentum_decay)",
            ),
            (
                "radam: rectified a few steps too early",
                "if length > 5.0:",
                "if length > 4.0:",
            ),
        ],
    ),
    (
        "optimizers/accumulating.py",
        "optimizers",
        [
            (
                "rmsprop: momentum is not carried",
                "velocity = momentum * velocity + gradient / (sqrt(square) + epsilon)",
                "velocity = gradient / (sqrt(square) + epsilon)",
            ),
            (
                "adagrad: the sum is not kept",
                "gradient / (sqrt(total) + epsilon), (total,)",
                "gradient / (sqrt(total) + epsilon), (gradient * gradient,)",
            ),
            (
                "adadelta: the steps' size is that of the gradients",
                "square_step = rho * square_step + fresh * step * step",
                "square_step = rho * square_step + fresh * gradient * gradient",
            ),
        ],
    ),
    (
        "optimizers/signed.py",
        "optimizers",
        [
            (
                "rprop: a step that overshot is followed by another",
                "gradient = zero  # the step that overshot is not followed by another",
                "pass",
            ),
            (
                "rprop: the first step size is the smallest",
                'return float(self.learning_rate) if slot == "size" else 0.0',
                "return 0.0",
            ),
            (
                "lion: the moment fades with the other rate",
                "(beta2 * first + fresh2 * gradient,)",
                "(beta1 * first + fresh1 * gradient,)",
            ),
        ],
    ),
    (
        "schedules.py",
        "schedules",
        [
            (
                "cosine: over an epoch, not over the run",
                "return half_cosine(steps / total_steps, 1.0, self.final)",
                "return half_cosine(steps / steps_per_epoch, 1.0, self.final)",
            ),
            (
                "steps: the rate falls a step too early",
                "epochs = np.floor(steps / steps_per_epoch)\n",
                "epochs = np.floor((steps + 1) / steps_per_epoch)\n",
            ),
            (
                "warm-up: the first step has rate zero",
                "(steps + 1.0) / max(rise, 1.0)",
                "steps / max(rise, 1.0)",
            ),
            (
                "plateau: patience is not counted from the best epoch",
                "best = loss\n                waited = 0",
                "best = loss",
            ),
        ],
    ),
)
