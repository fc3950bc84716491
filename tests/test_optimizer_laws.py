"""The optimizers' laws as plain Python, beside the reference: steps, moments, corrections."""

import numpy as np
import pytest
import reference
from strategies import scaled_error

import fastbp as fb
from fastbp.optimizers import Optimizer

# Besides the defaults: what a default of 0 or False leaves out, and settings far from usual ones.
VARIANTS = [
    *(Optimizer.resolve(name) for name in Optimizer.names()),
    fb.SGD(0.1, momentum=0.9),
    fb.SGD(0.1, momentum=0.9, nesterov=True),
    fb.RMSprop(rho=0.8, momentum=0.9, epsilon=0.03),
    fb.RMSprop(rho=0.8, centered=True, epsilon=0.03),
    fb.RMSprop(centered=True, momentum=0.9),
    fb.Adagrad(0.1, epsilon=0.03),
    fb.Adadelta(0.5, rho=0.7, epsilon=0.03),
    fb.Adam(0.1, 0.7, 0.8, 0.03),
    fb.Adam(0.1, 0.7, 0.8, amsgrad=True),
    fb.AdamW(0.1, weight_decay=0.3, amsgrad=True),
    fb.Adamax(0.1, 0.7, 0.8, 0.03),
    fb.NAdam(0.1, 0.7, 0.8, 0.03, momentum_decay=0.05),
    fb.RAdam(0.1, 0.7, 0.8, 0.03),
    fb.Rprop(0.1, increase=1.5, decrease=0.3, minimum=0.01, maximum=0.2),
    fb.Lion(0.1, 0.6, 0.8, weight_decay=0.3),
]


@pytest.mark.parametrize("optimizer", VARIANTS, ids=str)
def test_laws_of_optimizers_run_in_the_interpreter(optimizer):
    """Fifteen steps of a weight and of a bias, the learning rate falling."""
    rng = np.random.default_rng(3)
    settings = optimizer.describe()
    del settings["name"]
    for is_weight in (1.0, 0.0):
        parameter = expected = 0.7
        carry, state = optimizer.carry, {}
        slots = tuple(optimizer.initial_slot(name) for name in optimizer.slots)
        for t in range(1, 16):
            gradient = float(rng.normal())
            rate = optimizer.learning_rate / t
            coefficients, carry = optimizer.begin(float(t), rate, carry, optimizer.settings)
            parameter, slots = optimizer.update(parameter, gradient, slots, coefficients, is_weight)
            # The rate of Rprop is its first step size alone.
            settings["learning_rate"] = (
                optimizer.learning_rate if optimizer.name == "rprop" else rate
            )
            (expected,) = reference.OPTIMIZERS[optimizer.name](
                np.array([expected]), np.array([gradient]), state, t, bool(is_weight), **settings
            )
            assert scaled_error(parameter, expected) < 1e-12
