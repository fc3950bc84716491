"""Runs of the command line: kept, interrupted, gone on with to the same model, or refused."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import SMALL, in_python, run, trained
from conftest import ROOT

import fastbp as fb
from fastbp import checkpoint as checkpoints
from fastbp.backends.cpu.pace import Pace

pytestmark = pytest.mark.usefixtures("own_folder", "no_pictures")


def history_of(path):
    """The epochs that a checkpoint has."""
    return checkpoints.read_run_file(path).tensors["history.epoch"].tolist()


# Interrupts.


@pytest.fixture
def interrupt(monkeypatch):
    """Have Ctrl-C come when training has asked so many times whether the run is to be saved.

    It asks after each batch of every epoch, and after the epoch.
    """
    monkeypatch.setattr(Pace, "next_call", lambda self: (False, 1))
    due = fb.Checkpoint.is_due

    def after(calls):
        left = [calls]

        def is_due(self, epochs, seconds):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return due(self, epochs, seconds)

        monkeypatch.setattr(fb.Checkpoint, "is_due", is_due)

    return after


KEPT = (*SMALL, "--epochs", 6, "--checkpoint", "run.ckpt")
RUNS = {
    "plain": (),
    "weights": ("--class-weight", "rose=3,lily, white=2", "--label-smoothing", "0.1"),
    "average": ("--ema", "0.9", "--optimizer", "nadam", "--schedule", "reduce_on_plateau"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_goes_on_writes_the_same_model(name, table, capsys, interrupt):
    """The printed command is typed again, as it stands, until the run has ended."""
    options = RUNS[name]
    trained(capsys, table, *SMALL, "--epochs", 6, *options, "--output", "whole")
    arguments = (table, *KEPT, *options, "--output", "model")
    steps = [0]
    for calls in (3, 8, 4):
        interrupt(calls)
        text, error = trained(capsys, *arguments, code=130)
        assert text == ""
        first, command = error.splitlines()
        assert first.startswith("fastbp: interrupted; run.ckpt has the run up to step ")
        assert first.endswith("; to go on:")
        steps.append(int(first.split("up to step ")[1].split(";")[0]))
        program, train, *arguments = shlex.split(command)
        assert (program, train) == ("fastbp", "train")
        assert arguments.count("--resume") == 1
        assert not os.path.exists("model")
    assert sorted(set(steps)) == steps  # each went on from the one before
    interrupt(0)
    trained(capsys, *arguments)
    with open("whole", "rb") as whole, open("model", "rb") as model:
        assert whole.read() == model.read()
    os.unlink("model")
    trained(capsys, *arguments)  # it has ended, and its model is written again
    assert np.array_equal(fb.load("model").parameters, fb.load("whole").parameters)


def test_a_run_that_goes_on_shows_where_it_stands(table, capsys, interrupt):
    arguments = [each for each in KEPT if each != "--quiet"]
    interrupt(14)
    _, error = trained(capsys, table, *arguments, code=130)
    assert "fastbp: interrupted; run.ckpt has the run up to step " in error
    interrupt(0)
    text, shown = trained(capsys, table, *arguments, "--resume")
    assert f"{len(history_of('run.ckpt'))}/6" in shown
    assert "100%" in shown
    assert f"{'checkpoint':>14}  run.ckpt" in text
    assert "6 (" in text


def test_options_before_and_after_dashes(table, capsys, interrupt):
    """What follows -- is no option, so --resume goes before it."""
    interrupt(3)
    _, error = trained(capsys, *KEPT, "--", table, code=130)
    arguments = shlex.split(error.splitlines()[-1])[2:]
    assert arguments[0] == "--resume"
    interrupt(0)
    trained(capsys, *arguments)


def test_a_checkpoint_predicts(table, capsys, interrupt):
    interrupt(14)
    trained(capsys, table, *KEPT, code=130)
    code, text, error = run(capsys, "predict", "run.ckpt", table, "--json")
    assert code == 0, error
    with open(json.loads(text)["output"], encoding="utf-8") as file:
        assert file.readline().startswith('kind,"P(kind=lily, white)",P(kind=rose)')
    code, text, _ = run(capsys, "info", "run.ckpt")
    assert "classes: lily, white, rose, tulip" in text
    assert (
        "layers 4, activation relu, loss cross_entropy, label_smoothing 0.0, optimizer adamw"
        in text
    )


def test_ctrl_c_where_nothing_is_kept(table, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("fastbp.epochs.Run.run_epoch", interrupted)
        text, error = trained(capsys, table, *SMALL, code=130)
        assert (text, error) == (
            "",
            "fastbp: interrupted; nothing was saved; with --checkpoint FILE a run is kept\n",
        )
        with patched.context() as failing:  # no file of a run that has not begun
            failing.setattr("fastbp.commands.train.train", interrupted)
            _, error = trained(capsys, table, *KEPT, code=130)
        assert error == "fastbp: interrupted; nothing was saved yet\n"
    trained(capsys, table, *KEPT)
    content = os.stat("run.ckpt").st_ino
    with monkeypatch.context() as patched:
        patched.setattr("fastbp.commands.train.train", interrupted)
        # An earlier run's file is no state of a run that was to begin anew ...
        _, error = trained(capsys, table, *KEPT, code=130)
        assert error == "fastbp: interrupted; nothing was saved yet\n"
        # ... and it is of one that goes on.
        _, error = trained(capsys, table, *KEPT, "--resume", code=130)
        first, command = error.splitlines()
        assert first == "fastbp: interrupted; run.ckpt has the run as it was saved last; to go on:"
        assert command.endswith("--resume")
        assert command.count("--resume") == 1
    assert os.stat("run.ckpt").st_ino == content
    with monkeypatch.context() as patched:  # while the model is tested
        patched.setattr("fastbp.commands.train.report", interrupted)
        os.unlink("flowers.safetensors")
        _, error = trained(capsys, table, *SMALL, "--epochs", 1, code=130)
        assert error == "fastbp: interrupted; the model is in flowers.safetensors\n"
        patched.setattr("fastbp.commands.train.prepare", interrupted)
        _, error = trained(capsys, table, *SMALL, code=130)
        assert error == "fastbp: interrupted; nothing was written\n"


def test_ctrl_c_where_the_disk_is_full(table, capsys, interrupt, monkeypatch):
    """What could be saved before is named."""

    def full_after(writes):
        left, write = [writes], checkpoints.write_run_file

        def writing(path, content):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device", path)
            write(path, content)

        return writing

    failure = "fastbp: interrupted; the run could not be saved: [Errno 28]"
    for writes in (0, 1):
        interrupt(14)
        # As often as there is an epoch, so the second time is that of the interrupt.
        every = ("--checkpoint-every", 3 if writes else 99)
        with monkeypatch.context() as patched:
            patched.setattr("fastbp.epochs.write_run_file", full_after(writes))
            _, error = trained(capsys, table, *KEPT, *every, code=130)
        first, *typed = error.splitlines()
        assert first.startswith(failure)
        assert first.endswith("; to go on:") == (len(typed) == 1) == bool(writes)
    interrupt(0)
    trained(capsys, *shlex.split(typed[0])[2:])


@pytest.mark.usefixtures("ctrl_c_works")
def test_a_real_ctrl_c(table, tmp_path, capsys):
    """In a process of its own, which is interrupted once it has written its run."""
    trained(capsys, table, *SMALL, "--epochs", 1)  # its kernels are compiled by now
    arguments = [*map(str, SMALL), "--epochs", str(10**7), "--patience", str(10**7)]
    arguments += ["--checkpoint", "run.ckpt", "--checkpoint-every", "1", "--threads", "1"]
    command = [sys.executable, "-m", "fastbp", "train", table, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            end = time.monotonic() + 60
            while not (tmp_path / "run.ckpt").exists() and time.monotonic() < end:
                time.sleep(0.02)
            child.send_signal(signal.SIGINT)
            text, error = child.communicate(timeout=60)
        finally:
            child.kill()
    assert (child.returncode, text) == (130, "")
    first, typed = error.splitlines()
    assert first.startswith("fastbp: interrupted; run.ckpt has the run up to step ")
    assert shlex.split(typed) == [*command, "--resume"]
    assert len(history_of("run.ckpt")) >= 1


# Runs of something else.

OTHERS = {
    ("--layers", "5"): "with --layers 4; this one is with --layers 5",
    ("--class-weight", "rose=2"): "without --class-weight; this one is with --class-weight rose=2",
    (
        "--label-smoothing",
        "0.1",
    ): "with --label-smoothing 0.0; this one is with --label-smoothing 0.1",
    ("--ema", "0.5"): "without --ema; this one is with --ema 0.5",
    ("--seed", "1"): "with --seed 0; this one is with --seed 1",
    ("--test-fraction", "0.3"): "with --test-fraction 0.2; this one",
    ("--validation-fraction", "0.3"): "with --validation-fraction 0.1; this one",
    ("--dtype", "float64"): "with --dtype float32; this one",
    ("--learning-rate", "0.1"): "with --learning-rate 0.005; this one is with --learning-rate 0.1",
    ("--optimizer", "sgd", "--clip-norm", "0"): (
        "with --optimizer adamw, with --learning-rate 0.005, with --clip-norm 0.3; "
        "this one is with --optimizer sgd, with --learning-rate 0.01, with --clip-norm 0.0"
    ),
    ("--target", "width", "--task", "classification"): "with --target kind",
    ("--epochs", "7"): "with --epochs=2; this one has 7",
}


def test_another_run_is_refused_with_the_name_of_the_option(table, capsys, tmp_path):
    arguments = (table, *SMALL, "--epochs", 2, "--checkpoint", "run.ckpt", "--output", "m")
    trained(capsys, *arguments)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    numbers = ["length,width,kind", *(f"{i},{i % 3},{i % 2}" for i in range(90))]
    (tmp_path / "numbers.csv").write_text("\n".join(numbers) + "\n", encoding="utf-8")
    for options, message in OTHERS.items():
        data = "numbers.csv" if "--target" in options else table
        _, error = trained(capsys, data, *arguments[1:], "--resume", *options, code=1)
        assert error.startswith("fastbp: error: --resume: run.ckpt is of a run "), error
        assert message in error
        assert error.count("\n") == 1
    (tmp_path / "numbers.csv").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # The table may have another name and not other rows.
    (tmp_path / "moved.csv").write_bytes((tmp_path / table).read_bytes())
    trained(capsys, "moved.csv", *arguments[1:], "--resume")
    lines = (tmp_path / table).read_text(encoding="utf-8").splitlines()
    changed = ["length,width,kind", "9.0,9.0,rose", *lines[2:]]
    (tmp_path / table).write_text("\n".join(changed) + "\n", encoding="utf-8")
    _, error = trained(capsys, *arguments, "--resume", code=1)
    assert "--resume: run.ckpt is of a run with another X" in error


def test_the_same_run_in_other_words_goes_on(table, capsys):
    arguments = (table, *SMALL, "--checkpoint", "run.ckpt", "--output", "m")
    trained(capsys, *arguments, "--epochs", 2)
    others = ("--task", "classification", "--loss", "cross_entropy", "--learning-rate", "5e-3")
    trained(capsys, *arguments, "--epochs", "2", *others, "--layers", " 4,", "--resume")


def test_more_epochs_where_the_schedule_allows_them(table, capsys):
    arguments = (table, *SMALL, "--schedule", "constant", "--output")
    kept = ("--checkpoint", "run.ckpt", "--resume")
    trained(capsys, *arguments, "m", *kept, "--epochs", 2)  # there is none yet: it begins
    trained(capsys, *arguments, "m", *kept, "--epochs", 5)
    trained(capsys, *arguments, "whole", "--epochs", 5)
    with open("whole", "rb") as whole, open("m", "rb") as model:
        assert whole.read() == model.read()


def test_a_run_of_python_is_known_by_training(table, capsys, tmp_path):
    """Its model has no options; what differs has the names of arguments where there is no option."""
    in_python(table, checkpoint="run.ckpt", l2=0.1)
    _, error = trained(capsys, table, *KEPT, "--resume", code=1)
    assert "--resume: run.ckpt is of a run with --epochs=4; this one has 6" in error
    _, error = trained(capsys, table, *KEPT, "--resume", "--epochs", 4, code=1)
    assert "--resume: run.ckpt is of a run with l2=0.1; this one has 0.0" in error


@pytest.mark.parametrize("content", [b"length,width\n1,2\n", b"\x08\0\0\0\0\0\0\0{}      "])
def test_what_is_no_run_does_not_go_on_and_is_not_replaced(content, table, capsys, tmp_path):
    (tmp_path / "run.ckpt").write_bytes(content)
    _, error = trained(capsys, table, *KEPT, "--resume", code=1)
    assert error.startswith("fastbp: error: run.ckpt: ")
    _, error = trained(capsys, table, *KEPT, code=1)
    assert error.startswith("fastbp: error: --checkpoint: run.ckpt: ")
    assert error.endswith("; it is not replaced: delete it, or choose another name\n")
    assert (tmp_path / "run.ckpt").read_bytes() == content
    assert not (tmp_path / "flowers.safetensors").exists()


def test_a_run_that_diverges_says_what_is_left_of_it(tmp_path, capsys):
    """The loss of a line grows by a factor in each step, and is too large after some epochs."""
    rows = "".join(f"{i % 20},{(i * 7) % 20}\n" for i in range(200))
    (tmp_path / "t.csv").write_text(f"x,y\n{rows}", encoding="utf-8")
    steep = ("--optimizer", "sgd", "--learning-rate", 1.3, "--clip-norm", 0, "--schedule")
    arguments = ("t.csv", "--target", "y", "--layers", "", *steep, "constant", "--quiet")
    text, error = trained(capsys, *arguments, code=1)
    assert text == ""
    assert error.startswith("fastbp: error: ")
    assert " at step " in error
    assert error.endswith("helps.\n")
    kept = ("--checkpoint", "run.ckpt", "--checkpoint-every")
    text, again = trained(capsys, *arguments, *kept, 1, code=1)
    note = " run.ckpt has the last good state that was saved, as a model for `fastbp predict`.\n"
    assert again == error[:-1] + note
    assert run(capsys, "predict", "run.ckpt", "t.csv")[0] == 0
    epoch = int(error.split("(epoch ")[1].split(")")[0])
    assert history_of("run.ckpt") == list(range(1, epoch))
    assert epoch > 2
    os.unlink("run.ckpt")
    os.unlink("run.ckpt.previous")
    text, again = trained(capsys, *arguments, *kept, 1000, code=1)
    assert again == error
    assert not os.path.exists("run.ckpt")
