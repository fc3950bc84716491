"""The golden trajectories on a simulated GPU, through the real orchestrator.

Each case goes one of the ways to run a step, in turn: resident as one block, resident as blocks that
meet, fused, layered.
"""

import golden
import pytest
from simulated import WAYS
from strategies import scaled_error

import fastbp as fb

pytestmark = pytest.mark.usefixtures("gpu")

# The cases that differ in the optimizer alone.
OF_OPTIMIZERS = range(26, 42)


def epochs_of(number):
    """Of the 30 that are stored, a step each.

    The parameters after one step of SGD tell every gradient. Other optimizers need a second step,
    which has slots that the first one wrote and whose loss is that after an update.
    """
    is_plain = golden.CASES[number]["optimizer"] == "sgd" and number not in OF_OPTIMIZERS
    return 1 if is_plain else 2


BOUND = 1e-12  # scaled, float64
# Under the hinge some gradients cancel to zero, and Adam divides the rounding noise that is left by
# its own size and an epsilon of 1e-8 (see test_golden.py).
ADAM_ON_NOISE_BOUND = 1e-10


def trained(case, device, epochs):
    model = golden.model(case, "float64")
    X, y, w = golden.data(case)
    result = fb.train(
        model,
        X,
        y,
        loss=golden.loss(case),
        optimizer=golden.optimizer(case),
        epochs=epochs,
        batch_size=16,
        shuffle=False,
        sample_weight=w,
        device=device,
        **{key: case[key] for key in ("clip_norm", "clip_value", "l1", "l2") if key in case},
    )
    return model, result


@pytest.mark.parametrize(
    ("number", "way"),
    [(number, WAYS[number % len(WAYS)]) for number in range(len(golden.CASES))],
    indirect=["way"],
)
def test_losses_and_parameters(number, way):
    case, epochs = golden.CASES[number], epochs_of(number)
    model, result = trained(case, "cuda", epochs)
    assert result.device == "cuda:0"
    expected = golden.STORED[f"{number}/losses"][:epochs]
    assert scaled_error(result.history["loss"], expected) < BOUND
    on_processor, _ = trained(case, "cpu", epochs)
    noisy = (case["loss"], case["optimizer"]) == ("hinge", "adam")
    bound = ADAM_ON_NOISE_BOUND if noisy else BOUND
    assert scaled_error(model.parameters, on_processor.parameters) < bound


def test_the_cases_of_optimizers_are_those_that_differ_in_them():
    optimizers = [case["optimizer"] for case in golden.CASES]
    assert set(optimizers) == {optimizers[number] for number in OF_OPTIMIZERS}
    assert len({optimizers[number] for number in OF_OPTIMIZERS}) == len(OF_OPTIMIZERS)
