"""Ctrl-C: a KeyboardInterrupt, and a model that stands after a whole number of steps."""

import contextlib

import interrupting
import numpy as np
import pytest
from interrupting import CASES, Case, digest, interrupt, replay
from profiling import interrupted_after

import fastbp as fb

TRIALS = 3  # of each case, some twenty in all
# Where a training runs in Python.
ROOMS = "epochs run_engines run_state training model scaling pace workers engine layout".split()
FILES = tuple(f"{room}.py" for room in ROOMS)
SETTINGS = {"standardize": True}
TRAINED = {
    "plain": Case((3, 5, 4, 1), 40, 16, keywords=SETTINGS),
    "watched": Case(
        (3, 5, 1),
        40,
        16,
        keywords={**SETTINGS, "validation": 0.25, "patience": 9},
        has_callbacks=True,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_at_random_moments(name):
    """The time is measured, and no matter of a test."""
    for trial in interrupt(name, TRIALS):
        assert trial.ended == "KeyboardInterrupt"
        assert trial.step == trial.reached
        assert trial.agrees
        assert trial.seconds > 0


def train(case, *counts):
    """Train with interrupts after so many calls; the model, and how many calls were left."""
    model = case.model()
    callbacks = [lambda row, model: None] if case.has_callbacks else ()
    with contextlib.suppress(KeyboardInterrupt), interrupted_after(FILES, *counts) as left:
        fb.train(model, epochs=2, callbacks=callbacks, **case.arguments())
    return model, left


def is_whole(model, steps):
    """Whether the parameters are those after some step, and the scaling goes with them."""
    step = steps.get(digest(model.parameters))
    is_scaled = model.scaling is not None
    return step is not None and is_scaled == (step > 0) and model._trainings.calls == {}


@pytest.mark.parametrize("name", TRAINED)
def test_after_every_call_in_python(name):
    """Wherever Python looks for signals."""
    case = TRAINED[name]
    steps = replay(case, 6)
    train(case, 10**9)
    count, wrong = 0, []
    while count < 5000:
        count += 1
        model, left = train(case, count)
        if left:  # it was not reached
            break
        if not is_whole(model, steps):
            wrong.append(count)
    assert wrong == []
    assert 100 < count < 5000


@pytest.mark.parametrize("name", TRAINED)
def test_a_second_one_while_the_first_is_handled(name):
    """The model may then have parameters of an earlier step, and is no mixture."""
    case = TRAINED[name]
    steps = replay(case, 6)
    rng = np.random.default_rng(1)
    both, wrong = 0, []
    for _ in range(300):
        counts = int(rng.integers(1, 400)), int(rng.integers(1, 30))
        model, left = train(case, *counts)
        both += not left
        if not is_whole(model, steps):
            wrong.append(counts)
    assert wrong == []
    assert both > 100


def test_the_replay_tells_a_mixture():
    """Half of the parameters of one step and half of another's are those of none."""
    case = TRAINED["plain"]
    steps = replay(case, 6)
    assert sorted(steps.values()) == list(range(7))
    model = case.model()
    fb.train(model, epochs=2, **case.arguments())
    assert steps[digest(model.parameters)] == 6
    model.parameters[:10] = case.model().parameters[:10]
    assert digest(model.parameters) not in steps
    assert interrupting.digest(case.model().parameters) in steps
