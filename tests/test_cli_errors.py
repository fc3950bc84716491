"""Wrong usage of the command line: one line, the right name, nothing written."""

import pytest
from commands import csv_without, run

import fastbp as fb

# fmt: off
WRONG = {
    "missing file": (["none.csv", "--target", "x"], "none.csv: no such file"),
    "missing target": (["{table}", "--target", "x"], "no target column 'x'; the columns are length, width, kind, code"),
    "text feature": (["{table}", "--target", "code"], "expected a number in column 'kind'; got 'rose' in line 2"),
    "regression on text": (["{table}", "--target", "kind", "--task", "regression"], "expected a number in column 'kind'"),
    "layers": (["{table}", "--target", "kind", "--layers", "a"], "--layers: expected integers"),
    "zero layer": (["{numbers}", "--target", "code", "--layers", "4,0"], "--layers: expected an integer of at least 1"),
    "optimizer": (["{table}", "--target", "kind", "--optimizer", "x"], "--optimizer: expected one of adadelta"),
    "loss": (["{numbers}", "--target", "code", "--loss", "x"], "--loss: expected one of"),
    "loss for classes": (["{numbers}", "--target", "code", "--loss", "cross_entropy"], "--loss: expected a loss for regression; got cross_entropy"),
    "activation": (["{numbers}", "--target", "code", "--activation", "x"], "--activation: expected one of"),
    "schedule": (["{numbers}", "--target", "code", "--schedule", "x"], "--schedule: expected one of"),
    "rate": (["{numbers}", "--target", "code", "--learning-rate", "-1"], "--learning-rate: expected a finite number"),
    "epochs": (["{numbers}", "--target", "code", "--epochs", "0"], "--epochs: expected an integer of at least 1"),
    "batch size": (["{numbers}", "--target", "code", "--batch-size", "0"], "--batch-size: expected"),
    "fraction": (["{numbers}", "--target", "code", "--test-fraction", "1"], "--test-fraction: expected"),
    "device": (["{numbers}", "--target", "code", "--device", "cuda"], "cuda is not available"),
    "precision": (["{numbers}", "--target", "code", "--device", "cpu", "--precision", "tf32"], "fastbp: error: --precision: tf32 needs device"),
    "folder": (["{numbers}", "--target", "code", "--output", "no/such/m"], "--output: no such folder"),
    "too many classes": (["{numbers}", "--target", "length", "--task", "classification"], "classes in column 'length' that repeat"),
}
# fmt: on

pytestmark = pytest.mark.usefixtures("own_folder")


def test_one_stray_cell_does_not_make_classes_of_numbers(tmp_path, capsys):
    table = tmp_path / "stray.csv"
    for cell, shown in (("hello", "'hello'"), ("", "an empty cell")):
        rows = [f"{i},{i % 7}" for i in range(40)]
        rows[4] = f"4,{cell}"
        table.write_text("x,y\n" + "\n".join(rows), encoding="utf-8")
        code, _, error = run(capsys, "train", table, "--target", "y")
        assert code == 1
        assert f"as in 39 of 40 rows; got {shown} in line 6" in error


OUTPUTS = {
    "folder": (".", "--output: expected the name of a file; . is a folder"),
    "empty": ("", "--output: expected the name of a file; got an empty one"),
    "missing folder": ("no/such/m", "--output: no such folder: no/such"),
    "the data": ("data.csv", "--output: data.csv is the data itself"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_where_nothing_can_be_written_is_known_before_training(name, tmp_path, capsys):
    path, message = OUTPUTS[name]
    table = tmp_path / "data.csv"
    table.write_text("x,y\n" + "".join(f"{i},{i}\n" for i in range(40)), encoding="utf-8")
    content = table.read_bytes()
    arguments = ("--target", "y", "--epochs", 10**9, "--output", path)
    code, _, error = run(capsys, "train", "data.csv", *arguments)
    assert (code, message in error) == (1, True), error
    assert table.read_bytes() == content
    fb.Model(fb.mlp(1, 1)).save(tmp_path / "m.safetensors")
    code, _, error = run(capsys, "predict", "m.safetensors", "data.csv", "--output", path)
    assert code == 1


def test_folders_and_other_separators_are_named(tmp_path, capsys):
    code, _, error = run(capsys, "train", tmp_path, "--target", "y")
    assert code == 1
    assert "is a folder" in error
    table = tmp_path / "semicolons.csv"
    table.write_text("x;y\n1;2\n", encoding="utf-8")
    _, _, error = run(capsys, "train", table, "--target", "y")
    assert "the columns are x;y (cells are separated by commas)" in error


def test_version_and_bare_command(capsys):
    with pytest.raises(SystemExit):
        run(capsys, "--version")
    assert capsys.readouterr().out == f"fastbp {fb.__version__}\n"
    code, text, _ = run(capsys)
    assert code == 2
    assert "usage: fastbp" in text


def test_a_closed_pipe_is_no_error(tmp_path):
    import subprocess
    import sys

    command = f"{sys.executable} -m fastbp info --json | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_is_one_line_and_writes_nothing(name, flowers, tmp_path, capsys, monkeypatch):
    arguments, message = WRONG[name]
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("\n".join(",".join(line) for line in csv_without(flowers, "kind")))
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    filled = [a.format(table=flowers, numbers=numbers) for a in arguments]
    code, text, error = run(capsys, "train", *filled)
    assert code == 1
    assert text == ""
    assert error.startswith("fastbp: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert list(folder.iterdir()) == []


def test_predict_refuses_what_is_no_model(flowers, tmp_path, capsys):
    code, _, error = run(capsys, "predict", flowers, flowers)
    assert code == 1
    assert "damaged, or not a safetensors file" in error
    plain = tmp_path / "plain.safetensors"
    fb.Model(fb.mlp(2, 1)).save(plain)
    code, _, error = run(capsys, "predict", plain, flowers)
    assert code == 1
    assert "it names no columns" in error
    model = fb.load(plain)
    model.metadata = {"columns": ["length", "width"]}
    model.save(plain)
    assert run(capsys, "predict", plain, flowers)[0] == 1
