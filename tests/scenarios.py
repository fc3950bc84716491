"""What tests run in a process of its own, since it forks and leaves threads behind.

::

    python tests/scenarios.py NAME

prints "done" at its end. A benchmark may run the same at full size.
"""

import faulthandler
import os
import signal
import sys

import forks  # noqa: F401  (enters its scenarios)
import pools  # noqa: F401
from concurrency import SCENARIOS

if __name__ == "__main__":
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(50)
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")
    SCENARIOS[sys.argv[1]]()
    print("done")
