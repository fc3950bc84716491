"""A few of the suite's tests in one process, on few kernels: what planted faults are run against.

`main` begins with the tests of a room (`fault_rooms`), goes on with the others, stops at the first
that fails, and prints what it found as JSON: "plain", whether the gradient check that everybody
writes fails, and "found_by", the room and the message, or null. fastbp is the one that is found
first: see `fault_server`.
"""

import contextlib
import json
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
from fault_cache import PACKAGE, share_kernels
from fault_rooms import ROOMS

import fastbp as fb


def plain_check_fails():
    """The gradient check that everybody writes: one small network, central differences, 1e-3."""
    rng = np.random.default_rng(0)
    model = fb.Model(fb.mlp(3, 5, 2, activation="tanh"), dtype="float64", seed=1)
    X, y, step = rng.normal(size=(8, 3)), rng.normal(size=(8, 2)), 1e-6
    _, gradient = model.loss_and_gradient(X, y)
    slopes = np.empty_like(gradient)
    for i, value in enumerate(model.parameters.tolist()):
        sides = []
        for moved in (value + step, value - step):
            model.parameters[i] = moved
            sides.append(model.loss(X, y))
        model.parameters[i] = value
        slopes[i] = (sides[0] - sides[1]) / (2 * step)
    return not np.allclose(gradient, slopes, rtol=1e-3, atol=1e-8)


# The rooms in two parts that take about as long where nothing is compiled yet; and none of them.
LONG = ("validation", "divergence", "buffers", "elementary")
PARTS = ([name for name in ROOMS if name not in LONG], LONG, ())


def main(first="", part=None):
    """Run all rooms, or those of a part, that of the fault before the others."""
    share_kernels()
    try:
        plain = bool(plain_check_fails())
    except Exception:
        plain = True
    found = None
    names = ROOMS if part is None else PARTS[part]
    for name in dict.fromkeys([*([first] if first else []), *names]):
        try:
            with contextlib.redirect_stdout(sys.stderr):
                ROOMS[name]()
        except (Exception, pytest.fail.Exception) as error:
            frames = [
                f for f in traceback.extract_tb(error.__traceback__) if "/tests/" in f.filename
            ]
            where = f"{Path(frames[-1].filename).name}, {frames[-1].name}" if frames else name
            said = f"{where}: {type(error).__name__} {error}".splitlines()[0].strip()
            found = {"room": name, "message": said[:160]}
            break
    print(json.dumps({"package": str(PACKAGE), "plain": plain, "found_by": found}))
