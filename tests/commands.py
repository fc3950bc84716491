"""Running the command line in this process, and a table to run it on."""

import csv

import numpy as np
import pytest

from fastbp.cli import main


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


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
