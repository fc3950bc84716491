"""The README's commands and lines are those that are tested, and the example runs."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastbp as fb

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_quickstart_runs_and_learns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(ROOT / "examples" / "quickstart.py"))
    assert names["result"].loss < 1e-3
    assert np.allclose(names["model"].predict([[0.5, 0.5]]), np.sin(0.5) * np.cos(0.5), atol=0.03)
    assert (tmp_path / "net.safetensors").is_file()
    assert "samples/s" in capsys.readouterr().out


def test_the_readme_shows_the_quickstart_word_for_word():
    source = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    body = source.split('"""\n\n', 1)[1].strip()
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert body in [block.strip() for block in blocks]


def test_the_readme_prints_the_two_commands():
    commands = re.findall(r"^    (python -m pip .*)$", README, re.MULTILINE)
    assert commands == [
        "python -m pip install . && "
        "fastbp train examples/data/california_housing.csv.gz --target MedHouseVal",
        "python -m pip install '.[test]' && python -m pytest",
    ]


def test_the_design_document_prints_the_plan_of_today():
    """docs/design.md shows the tables of a small network as they really are."""
    from fastbp.backends.choose import geometry
    from fastbp.losses import Mse
    from fastbp.plan import build_plan

    plan = build_plan(
        fb.mlp(3, 4, 1, activation="tanh"),
        "train",
        "float32",
        32,
        geometry("cpu"),
        loss=Mse(),
        optimizer=fb.SGD(0.1, momentum=0.9),
    )
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert str(plan) in text


def test_the_example_of_a_law_of_ones_own_runs(tmp_path):
    """The code of docs/extending.md, as a module of its own in a fresh process."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    use = """
import numpy as np

X = np.linspace(-1, 1, 60).reshape(20, 3)
model = fb.Model(fb.mlp(3, 8, 1, activation=Cube(0.5)))
losses = fb.train(model, X, X[:, 0] ** 3, epochs=60).history["loss"]
assert losses[-1] < 0.8 * losses[0]
assert fb.mlp(3, 8, 1, activation="cube").layers[0].activation == Cube()
"""
    script = tmp_path / "cube.py"
    script.write_text(block + use, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["california_housing.csv.gz"])
def test_example_data_is_there(name):
    assert (ROOT / "examples" / "data" / name).stat().st_size > 400_000
