"""Nothing is read or written beyond the ends of a slab, a table or an array.

Bounds are checked by the processor: what lies there are pages that nobody may touch. (Numba's own
checks see nothing, since kernels work on addresses; `tests/kernels.py` has canaries for any system.)
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import guarding
import pytest

import fastbp as fb

pytestmark = pytest.mark.skipif(os.name != "posix", reason="protects pages by POSIX's mprotect")
SECONDS = 240


def run(what):
    """Run one of `guarding`'s, in a process of its own."""
    path = os.pathsep.join([str(Path(fb.__file__).parents[1]), *sys.path[1:]])
    return subprocess.run(
        [sys.executable, guarding.__file__, what],
        env={**os.environ, "NUMBA_NUM_THREADS": "2", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("side", ["end", "begin"])
def test_all_plans_stay_within_their_memory_and_what_lies_around_changes_no_bit(side):
    done = run(side)
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[-1:]) == (0, ["done"]), (lines[-1:], done.stderr)
    assert len(lines) - 1 == 2 * len(guarding.CASES) * (2 * len(guarding.PURPOSES) + 1)


@pytest.mark.parametrize("fault", guarding.FAULTS)
def test_who_goes_beyond_is_killed(fault):
    done = run(fault)
    assert done.returncode in {-signal.SIGSEGV, -signal.SIGBUS}, done.stderr
