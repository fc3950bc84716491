"""What `fastbp train` says of a training that goes wrong, and the learning rate that it looks for."""

import json
import subprocess
import sys

import numpy as np
import pytest
from commands import csv_without, run

import fastbp as fb
from fastbp.datasets import split_rows

pytestmark = pytest.mark.usefixtures("own_folder", "no_pictures")

SMALL = ("--target", "kind", "--batch-size", 32, "--epochs", 3)


@pytest.fixture
def table(flowers):
    """Classes alone to predict."""
    lines = [",".join(line) for line in csv_without(flowers, "code")]
    flowers.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return flowers.name


SLOW = (*SMALL, "--layers", "8", "--learning-rate", "1e-9", "--clip-norm", 0)


def test_warnings_after_the_first_and_the_last_epoch(capsys, table):
    code, out, err = run(capsys, "train", table, *SLOW, "--json")
    assert code == 0
    lines = [line for line in err.splitlines() if line.startswith("fastbp: after")]
    assert [line.partition(": learning rate too low: ")[0] for line in lines] == [
        "fastbp: after the first epoch",
        "fastbp: after the last epoch",
    ]
    assert all("A learning rate of" in line for line in lines)
    warnings = json.loads(out)["warnings"]
    assert list(warnings) == ["first_epoch", "last_epoch"]
    for found in warnings.values():
        assert [finding["trouble"] for finding in found] == ["learning_rate_too_low"]
        assert found[0]["arguments"]["optimizer"]["name"] == "adamw"


def test_quiet_is_quiet_and_a_healthy_training_has_no_warnings(capsys, table):
    assert run(capsys, "train", table, *SLOW, "--quiet") == (0, "", "")
    code, out, err = run(capsys, "train", table, *SMALL, "--layers", "8", "--json")
    assert (code, "after the" in err) == (0, False)
    assert json.loads(out)["warnings"] == {"first_epoch": [], "last_epoch": []}


def test_looking_changes_no_bit_of_the_model(capsys, table, monkeypatch):
    arguments = ("train", table, *SMALL, "--layers", "8", "--quiet", "--output")
    assert run(capsys, *arguments, "looked")[0] == 0
    monkeypatch.setattr("fastbp.commands.train.Warnings.look", lambda *_: None)
    assert run(capsys, *arguments, "blind")[0] == 0
    models = [fb.load(name) for name in ("looked", "blind")]
    assert np.array_equal(models[0].parameters, models[1].parameters)


def test_warnings_stand_above_the_progress_bar(table):
    command = [sys.executable, "-m", "fastbp", "train", table, *map(str, SLOW)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stderr.replace("\r", "\n").splitlines()
    assert sum(line.startswith("fastbp: after the ") for line in lines) == 2
    assert "test accuracy" in done.stdout
    assert "after the" not in done.stdout


def test_a_learning_rate_that_is_looked_for(capsys, table):
    """The suggestion of the same test from Python, and a model of that rate."""
    found = run(capsys, "train", table, *SMALL, "--layers", "8", "--learning-rate", "auto")
    assert found[0] == 0
    columns = np.genfromtxt(table, delimiter=",", skip_header=1, usecols=(0, 1))
    with open(table, encoding="utf-8") as file:
        kinds = [line.strip().split(",", 2)[2].strip('"') for line in list(file)[1:]]
    _, y = np.unique(kinds, return_inverse=True)
    rows, _ = split_rows(len(columns), 0.2, 1)
    model = fb.Model(fb.mlp(2, 8, 3))
    optimizer = fb.AdamW(weight_decay=0.05)
    shared = {"batch_size": 32, "clip_norm": 0.3, "standardize": True}
    curve = fb.find_learning_rate(
        model, columns[rows], y[rows], "cross_entropy", optimizer, **shared
    )
    assert f"learning rate  {curve.suggestion:.2g}, found by the range test" in found[1]
    arguments = ("train", table, *SMALL, "--layers", "8", "--quiet", "--output", "by_hand")
    assert run(capsys, *arguments, "--learning-rate", repr(curve.suggestion))[0] == 0
    models = [fb.load(name) for name in ("by_hand", "flowers.safetensors")]
    assert np.array_equal(models[0].parameters, models[1].parameters)
    out = run(capsys, "train", table, *SMALL, "--layers", "8", "--json")[1]
    assert json.loads(out)["learning_rate"] == 0.005
    assert "range test" not in out


def test_a_run_with_a_found_rate_is_resumed(capsys, table):
    arguments = ["train", table, *SMALL, "--layers", "8", "--quiet", "--learning-rate", "auto"]
    assert run(capsys, *arguments, "--checkpoint", "run", "--output", "one")[0] == 0
    assert run(capsys, *arguments, "--checkpoint", "run", "--output", "two", "--resume")[0] == 0
    assert np.array_equal(fb.load("one").parameters, fb.load("two").parameters)


def test_where_there_is_no_rate_and_what_is_none(capsys, table, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        run(capsys, "train", table, *SMALL, "--learning-rate", "fast")
    assert stopped.value.code == 2
    assert "--learning-rate" in capsys.readouterr().err
    monkeypatch.setattr("fastbp.learning_rate.FALL", 1e9)
    code, _, err = run(capsys, "train", table, *SMALL, "--quiet", "--learning-rate", "auto")
    assert code == 1
    assert err.startswith("fastbp: error: --learning-rate: The loss falls at no learning rate")
    assert "Give a number instead of auto" in err
