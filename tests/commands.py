"""Running the command line in this process, and a table to run it on."""

import csv

import numpy as np
import pytest

import fastbp as fb
from fastbp.cli import main
from fastbp.datasets import split_rows

# A quick training on the fixture `table`.
SMALL = ("--target", "kind", "--layers", "4", "--batch-size", 32, "--quiet")


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """Commands write into the current folder unless told otherwise."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_pictures(monkeypatch):
    """No time goes into learning curves."""
    monkeypatch.setattr("fastbp.commands.train.draw_learning_curve", lambda *_: None)


@pytest.fixture
def flowers(tmp_path):
    """Three classes in a table, by name and by number."""
    rng = np.random.default_rng(5)
    path = tmp_path / "flowers.csv"
    centres = {"rose": (0, 0), "tulip": (3, 0), "lily, white": (0, 3)}
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["length", "width", "kind", "code"])
        for i in range(300):
            name = list(centres)[i % 3]
            a, b = rng.normal(centres[name], 0.5)
            writer.writerow([f"{a:.4f}", f"{b:.4f}", name, 10 + i % 3])
    return path


def csv_without(path, column):
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    drop = rows[0].index(column)
    return [[f'"{c}"' if "," in c else c for i, c in enumerate(r) if i != drop] for r in rows]


@pytest.fixture
def table(flowers):
    """Flowers without codes; tulips are about twice as common as each other kind."""
    lines = [",".join(line) for line in csv_without(flowers, "code")]
    kept = [line for i, line in enumerate(lines) if i % 2 or "tulip" in line or i == 0]
    flowers.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return flowers.name


def trained(capsys, *arguments, code=0):
    """Run `fastbp train`; what it printed, and its errors."""
    found, text, error = run(capsys, "train", *arguments)
    assert found == code, error
    return text, error


def in_python(table, **keywords):
    """What `fastbp train` does with a table of these flowers, from Python."""
    columns = np.genfromtxt(table, delimiter=",", skip_header=1, usecols=(0, 1))
    with open(table, encoding="utf-8") as file:
        kinds = [line.strip().split(",", 2)[2].strip('"') for line in list(file)[1:]]
    _, y = np.unique(kinds, return_inverse=True)
    train_rows, _ = split_rows(len(columns), 0.2, 1)
    model = fb.Model(fb.mlp(2, 4, 3))
    settings = {"loss": "cross_entropy", "epochs": 4, "batch_size": 32, "validation": 0.1}
    settings |= {"optimizer": fb.AdamW(0.005, weight_decay=0.05), "schedule": "one_cycle"}
    settings |= {"clip_norm": 0.3, "standardize": True, "patience": 50} | keywords
    fb.train(model, columns[train_rows], y[train_rows], **settings)
    fit_rows = train_rows[split_rows(len(train_rows), 0.1, 0)[0]]
    return model, np.bincount(y[fit_rows]).tolist()
