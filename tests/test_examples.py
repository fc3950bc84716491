"""The README's commands and lines are those that are tested, and the example runs."""

import re
import runpy
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


@pytest.mark.parametrize("name", ["california_housing.csv.gz"])
def test_example_data_is_there(name):
    assert (ROOT / "examples" / "data" / name).stat().st_size > 400_000
