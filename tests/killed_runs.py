"""A training that is killed again and again, and goes on each time from its checkpoint."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from killing import files_left

import fastbp as fb

CHILD = """
import sys
import numpy as np
import fastbp as fb

path, output = sys.argv[1:3]
rng = np.random.default_rng(5)
X = rng.normal(size=(400, 6))
y = np.tanh(X @ rng.normal(size=6))
model = fb.Model(fb.mlp(6, 24, 24, 1, activation="tanh"), dtype="float64", seed=3)
print("started", flush=True)
result = fb.train(
    model, X, y, epochs=60, batch_size=16, optimizer=fb.Adam(0.01), schedule="one_cycle",
    validation=0.2, standardize=True, ema=0.95, patience=50, threads=1,
    checkpoint=fb.Checkpoint(path, every_epochs=1), resume=True,
    callbacks=[lambda row, model: print(int(row["epoch"]), flush=True)],
)
np.savez(output, parameters=model.parameters, loss=result.history["loss"], best=result.best_epoch)
"""


STARTING = 0.3  # of the kills


@dataclass(frozen=True)
class Killed:
    """What came of it.

    Attributes
    ----------
    kills : int
    lost : int
        Epochs that were reported as finished and saved, and that a later child ran again.
    unreadable : int
        Times that no checkpoint could be read although one had been written.
    is_same : bool
        Whether all runs that came to their end have the bits of one that was never killed.
    ended : int
        Such runs.
    resumed : int
        Children that went on from a checkpoint.
    files : Counter
        What files the kills left, in words.
    """

    kills: int
    lost: int
    unreadable: int
    is_same: bool
    ended: int
    resumed: int
    files: Counter


def run_to_the_end(folder, name):
    """The result of a run that nobody kills."""
    output = folder / f"{name}.npz"
    command = [sys.executable, "-c", CHILD, str(folder / f"{name}.safetensors"), str(output)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return dict(np.load(output))


def kill_runs(folder, kills, seed=0):
    """Kill a run at random moments, `kills` times in all; begin anew whenever it reaches its end.

    Some are killed while they start, the others a while after the first line that they print, so
    that the moments fall into starting, training and writing however busy the machine is.
    """
    folder, chance = Path(folder), random.Random(seed)
    expected = run_to_the_end(folder, "whole")
    own = folder / "own"  # nothing but the run's files
    own.mkdir()
    path, output = own / "run.safetensors", folder / "run.npz"
    killed = lost = unreadable = ended = resumed = reached = 0
    is_same, files = True, Counter()
    while killed < kills or not output.exists():
        command = [sys.executable, "-c", CHILD, str(path), str(output)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "started\n"
            lines = []
            if killed < kills:
                if chance.random() < STARTING:
                    time.sleep(chance.uniform(0.0, 0.5))
                else:
                    lines.append(child.stdout.readline())
                    time.sleep(chance.uniform(0.0, 0.2))
                child.send_signal(signal.SIGKILL)
            lines += child.stdout.read().splitlines()
        assert child.returncode in (0, -signal.SIGKILL), f"it ended with {child.returncode}"
        if child.returncode != 0:  # and not at its end before the signal came
            killed += 1
            files[files_left(path)] += 1
            output.unlink(missing_ok=True)  # it may be a part
        epochs = [int(line) for line in lines if line.strip()]
        # An epoch is saved after its line, so the last line's may be missing.
        lost += bool(epochs) and epochs[0] < reached
        resumed += bool(epochs) and epochs[0] > 1
        reached = epochs[-1] if epochs else reached
        if reached > 1:
            try:
                fb.load(path)
            except (fb.CheckpointError, OSError):
                unreadable += 1
        if output.exists():
            ended += 1
            found = dict(np.load(output))
            is_same &= all(np.array_equal(found[key], expected[key]) for key in expected)
            if killed < kills:
                reached = 0
                for file in (output, path, path.with_name(f"{path.name}.previous")):
                    file.unlink(missing_ok=True)
    return Killed(killed, lost, unreadable, is_same, ended, resumed, files)
