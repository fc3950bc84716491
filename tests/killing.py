"""Writers of runs that are killed, at random moments and at every call, and what they leave.

Run as a program it is such a writer: ``python killing.py PATH SIZE`` writes state after state and
reports each on its output; ``python killing.py PATH SIZE every`` dies at every call in turn.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from fastbp.checkpoint import RunFile, read_run_file, write_run_file
from fastbp.errors import CheckpointError
from fastbp.files import previous_of
from fastbp.model_file import ModelFile
from fastbp.network import mlp

ROOT = Path(__file__).parents[1]


def state(number, size):
    """A run of about `size` bytes whose every number is its own."""
    network = mlp(3, 2)
    tensors = {
        name: np.full(specification.shape, number, dtype="float64")
        for name, specification in network.parameters()
    }
    model = ModelFile(network, "float64", number, tensors, None, {"number": number})
    values = np.full(size // 8, number, dtype=np.int64)
    return RunFile(model, {"values": values}, {"number": number})


def number_of(run):
    """The number of a state, which every part of it has to be."""
    number = run.notes["number"]
    assert run.model.seed == run.model.metadata["number"] == number
    for array in (*run.tensors.values(), *run.model.tensors.values()):
        assert (array == number).all()
    return number


def found(path):
    """The numbers of PATH and of PATH.previous; -1 for what is not there."""
    previous = previous_of(path)
    numbers = [
        number_of(read_run_file(name)) if os.path.exists(name) else -1 for name in (path, previous)
    ]
    assert numbers[1] in (-1, numbers[0], numbers[0] - 1), numbers
    return numbers


def write_on(path, size):
    """Write states until somebody ends this, and report each when it is written."""
    number = found(path)[0]
    os.write(1, b"ready\n")
    while True:
        number += 1
        write_run_file(path, state(number, size))
        os.write(1, b"%d\n" % number)


def writer(path, size, *more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, __file__, str(path), str(size), *more],
        stdout=subprocess.PIPE,
        env=environment,
    )


def files_left(path):
    """What there is of PATH in its folder, in words."""
    folder, base = os.path.split(path)
    names = set(os.listdir(folder))
    words = ["PATH"] * (base in names) + ["PATH.previous"] * (f"{base}.previous" in names)
    for ending, word in ((".partial", "a partial file"), (".link", "a link")):
        words += [word] * any(name.endswith(ending) for name in names)
    return " and ".join(words) or "nothing"


def kill_writers(path, kills, seed=0, size=1 << 18):
    """Kill so many writers of PATH at random moments; what came of it, and what files they left.

    After each, PATH has to be readable and no older than the last state that was reported as
    written. Where it is not, that counts as unreadable or lost, and the next writer begins anew.

    Returns two Counters.
    """
    rng = random.Random(seed)
    path = str(path)
    folder, base = os.path.split(path)
    outcomes, files = Counter(), Counter()
    before = found(path)[0]
    for _ in range(kills):
        with writer(path, size) as child:
            assert child.stdout.readline() == b"ready\n"
            lines = [child.stdout.readline() for _ in range(rng.randrange(4))]
            time.sleep(rng.uniform(0.0, 0.01))
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.read().splitlines()
        assert child.returncode == -signal.SIGKILL
        reported = int(lines[-1]) if lines else before
        files[files_left(path)] += 1
        outcomes["killed"] += 1
        try:
            current, previous = found(path)
        except (CheckpointError, AssertionError):
            outcomes["unreadable"] += 1
            for name in (path, previous_of(path)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
            before = -1
            continue
        assert current <= reported + 1, (reported, current)
        before = current
        outcomes["lost"] += current < reported
        outcomes["written but not reported"] += current > reported
        outcomes["one file of two names left"] += -1 < current == previous
    write_run_file(path, state(before + 1, size))
    outcomes["leftovers that stay"] = len(set(os.listdir(folder)) - {base, f"{base}.previous"})
    return outcomes, files


def die_at(number, after):
    """Make this process kill itself at the so manieth call that changes files."""
    calls = 0

    def dying(function):
        def call(*arguments, **keywords):
            nonlocal calls
            calls += 1
            if calls == number and not after:
                if function is originals["write"]:  # a part of the content gets through
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return function(*arguments, **keywords)
            finally:
                if calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    names = ("open", "write", "fsync", "link", "replace", "unlink", "close")
    originals = {name: getattr(os, name) for name in names}
    for name, function in originals.items():
        setattr(os, name, dying(function))


def die_at_every_call(path, size):
    """Fork writers that die before and after every call; print how many died."""
    folder, base = os.path.split(path)
    current = deaths = 0
    for after in (False, True):
        for number in range(1, 1000):
            before = current + 1
            write_run_file(path, state(before, size))
            assert set(os.listdir(folder)) <= {base, f"{base}.previous"}  # leftovers have gone
            child = os.fork()
            if child == 0:
                die_at(number, after)
                write_run_file(path, state(before + 1, size))
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            current, previous = found(path)
            assert current in (before, before + 1), current
            assert previous >= before - 1 or before == 1, previous
            if os.WIFEXITED(status):
                assert (os.WEXITSTATUS(status), current) == (0, before + 1)
                break
            deaths += 1
    print(deaths)


if __name__ == "__main__":
    target, length = sys.argv[1], int(sys.argv[2])
    if sys.argv[3:] == ["every"]:
        die_at_every_call(target, length)
    else:
        write_on(target, length)
