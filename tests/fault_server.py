"""Runs `fault_checks` against one package after another, each in a child of this process.

``python tests/fault_server.py`` imports what all children need and what is no part of fastbp, and
reads requests from its standard input, one a line: JSON [package, cache, room, part]. Each is answered by
two lines: what `fault_checks` found, if it came so far, and {"ended": status}.
"""

import importlib
import json
import os
import resource
import signal
import sys
import warnings

# For one child, of a core and on the clock: a fault may make an endless loop, or wait for ever.
CORE_SECONDS, SECONDS = 120, 600
SHARED = "hypothesis mpmath numba numpy pytest safetensors.numpy scipy.special threadpoolctl tqdm"


def answer(package, cache, room, part):
    """In the child: find fastbp in the package, and run the tests."""
    resource.setrlimit(resource.RLIMIT_CPU, (CORE_SECONDS, CORE_SECONDS + 1))
    signal.alarm(SECONDS)
    sys.path.insert(0, package)
    os.environ["FASTBP_CACHE_DIR"] = cache
    os.chdir(package)
    warnings.simplefilter("ignore")  # numbers of a broken program may overflow
    importlib.import_module("fault_checks").main(room, part)
    sys.stdout.flush()


def main():
    """Serve until the input ends."""
    for name in SHARED.split():
        importlib.import_module(name)
    import numba

    numba.njit("float64(float64)")(lambda x: x + 1.0)  # reads Numba's registries
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                answer(*json.loads(line))
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"ended": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
