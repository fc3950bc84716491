"""The command line on real files, and wrong usage."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from commands import csv_without, run
from conftest import HOUSING

import fastbp as fb
from fastbp.backends import choose
from fastbp.cli import main

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def trained_housing(tmp_path_factory):
    """The README's main job, in a folder of its own and a process of its own."""
    folder = tmp_path_factory.mktemp("housing")
    command = [sys.executable, "-m", "fastbp", "train", str(HOUSING), "--target", "MedHouseVal"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return folder, done.stdout, done.stderr


def test_the_main_job(trained_housing):
    folder, report, shown = trained_housing
    for word in (
        "14,861 rows to train on",
        "1,651 for validation",
        "4,128 for the test",
        "128, relu",
        "parameters",
        "cpu",
        "thread",
        "epochs",
        "samples/s",
        "RMSE",
        "MAE",
        "R2",
        "mean",
        "california_housing.safetensors",
    ):
        assert word in report, word
    rmse, trivial = next(line for line in report.splitlines() if "RMSE" in line).split()[1:]
    assert float(rmse) <= 0.51
    assert 1.1 < float(trivial) < 1.2
    for word in ("100%", "loss", "validation", "samples/s", "left"):
        assert word in shown, word
    assert (folder / "california_housing.safetensors").is_file()


def test_a_learning_curve_is_drawn_where_matplotlib_is_installed(trained_housing):
    folder, report, _ = trained_housing
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert not (folder / "california_housing.png").exists()
        assert "learning curve" not in report
    else:
        assert (folder / "california_housing.png").read_bytes().startswith(b"\x89PNG")


def test_predict_by_column_name_in_the_targets_units(trained_housing, capsys, housing):
    folder, _, _ = trained_housing
    X, y = housing
    rows = folder / "rows.csv"
    names = [
        "MedInc",
        "HouseAge",
        "AveRooms",
        "AveBedrms",
        "Population",
        "AveOccup",
        "Latitude",
        "Longitude",
    ]
    order = [7, 0, 3, 2, 1, 6, 5, 4]  # other order, one more column, no target
    with open(rows, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["unused", *(names[i] for i in order)])
        writer.writerows([["text", *(repr(float(x[i])) for i in order)] for x in X[:500]])
    out = folder / "out.csv"
    model = folder / "california_housing.safetensors"
    code, text, _ = run(capsys, "predict", model, rows, "--output", out)
    assert code == 0
    assert "500 predictions of MedHouseVal, made on cpu, written to" in text
    with open(out, newline="") as file:
        header, *lines = csv.reader(file)
    found = np.array(lines, dtype=float)[:, 0]
    assert header == ["MedHouseVal"]
    assert np.array_equal(found, fb.load(model).predict(X[:500])[:, 0].astype(float))
    assert np.sqrt(np.mean((found - y[:500]) ** 2)) < 0.6
    code, _, error = run(capsys, "predict", model, out)
    assert code == 1
    assert "no column 'MedInc'; the columns are MedHouseVal" in error


@pytest.mark.usefixtures("gpu")
def test_predict_says_which_device_it_took(tmp_path, capsys, monkeypatch):
    table, path = tmp_path / "t.csv", tmp_path / "m.safetensors"
    table.write_text("x\n" + "0.5\n" * 40, encoding="utf-8")
    model = fb.Model(fb.mlp(1, 1))
    model.metadata = {"columns": ["x"], "target": "y", "classes": None, "loss": "mse"}
    model.save(path)
    # Predictions of 40 rows with 2 parameters are 80 multiply-adds.
    for least, given, taken in (
        (81, "auto", "cpu"),
        (80, "auto", "cuda:0"),
        (81, "cuda", "cuda:0"),
    ):
        monkeypatch.setattr(choose, "AUTO_MULTIPLY_ADDS", least)
        code, text, _ = run(capsys, "predict", path, table, "--device", given, "--json")
        assert (code, json.loads(text)["device"]) == (0, taken)
        _, text, _ = run(capsys, "predict", path, table, "--device", given)
        assert f"40 predictions of y, made on {taken}, written to t_predictions.csv" in text
    code, text, _ = run(capsys, "predict", path, table, "--json")
    assert json.loads(text) == {
        "rows": 40,
        "target": "y",
        "device": "cpu",
        "output": "t_predictions.csv",
    }


def test_a_text_target_trains_a_classifier(flowers, tmp_path, capsys):
    output = tmp_path / "flowers.safetensors"
    table = tmp_path / "two.csv"
    table.write_text("\n".join(",".join(line) for line in csv_without(flowers, "code")))
    code, text, _ = run(
        capsys,
        "train",
        table,
        "--target",
        "kind",
        "--layers",
        "16",
        "--epochs",
        60,
        "--output",
        output,
    )
    assert code == 0
    assert "test accuracy of kind" in text
    assert "recall" in text
    assert "as rose" in text
    code, text, _ = run(capsys, "predict", output, table, "--json")
    report = json.loads(text)
    with open(report["output"], newline="") as file:
        header, *lines = csv.reader(file)
    assert report["output"] == "two_predictions.csv"
    assert header[0] == "kind"
    assert header[1:] == ["P(kind=lily, white)", "P(kind=rose)", "P(kind=tulip)"]
    assert len(header) == 4
    probabilities = np.array([line[1:] for line in lines], dtype=float)
    assert np.allclose(probabilities.sum(axis=1), 1)
    truth = [line[2] for line in csv_without(flowers, "code")[1:]]
    assert (
        np.mean([line[0] == name.strip('"') for line, name in zip(lines, truth, strict=True)])
        > 0.95
    )


def test_task_classification_with_numbers_and_json(flowers, tmp_path, capsys):
    table = tmp_path / "numbers.csv"
    table.write_text("\n".join(",".join(line) for line in csv_without(flowers, "kind")))
    output = tmp_path / "codes.safetensors"
    code, text, error = run(
        capsys,
        "train",
        table,
        "--target",
        "code",
        "--task",
        "classification",
        "--layers",
        "16,8",
        "--activation",
        "tanh",
        "--optimizer",
        "adam",
        "--learning-rate",
        "0.01",
        "--epochs",
        "40",
        "--batch-size",
        "32",
        "--seed",
        "3",
        "--patience",
        "10",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--loss",
        "cross_entropy",
        "--output",
        output,
        "--json",
    )
    assert (code, error) == (0, "")
    report = json.loads(text)
    assert report["test"]["accuracy"] > 0.95
    assert report["test"]["classes"] == [10, 11, 12]
    assert np.sum(report["test"]["confusion"]) == report["rows"]["test"] == 60
    assert len(report["test"]["recall"]) == 3
    assert report["network"] == "2 -> Dense(16, tanh) -> Dense(8, tanh) -> Dense(3, identity)"
    assert report["training"]["threads"] == 1
    assert report["training"]["epochs"] <= 40
    code, text, _ = run(capsys, "info", output)
    assert code == 0
    assert "Dense(16, tanh)" in text
    assert "classes: 10, 11, 12" in text


def test_options_reach_training(flowers, tmp_path, capsys):
    def history(*extra):
        code, text, _ = run(
            capsys,
            "train",
            flowers,
            "--target",
            "length",
            "--output",
            tmp_path / "m.safetensors",
            "--json",
            "--epochs",
            "3",
            "--layers",
            "4",
            *extra,
        )
        assert code == 0
        return json.loads(text)

    table = tmp_path / "numbers.csv"
    table.write_text("\n".join(",".join(line) for line in csv_without(flowers, "kind")))
    flowers = table
    base = history()
    assert history()["training"]["history"][-1]["loss"] == base["training"]["history"][-1]["loss"]
    for extra in (
        ["--seed", "1"],
        ["--loss", "huber"],
        ["--optimizer", "sgd"],
        ["--batch-size", "7"],
        ["--learning-rate", "0.1"],
        ["--activation", "sine"],
        ["--schedule", "constant"],
        ["--validation-fraction", "0.3"],
        ["--test-fraction", "0.5"],
        ["--dtype", "float64"],
        ["--clip-norm", "0"],
    ):
        changed = history(*extra)["training"]["history"][-1]["loss"]
        assert changed != base["training"]["history"][-1]["loss"], extra
    assert (
        history("--epochs", "50", "--patience", "1", "--learning-rate", "0.9")["training"][
            "stopped_by"
        ]
        == "patience"
    )


def test_quiet_prints_nothing(flowers, tmp_path, capsys):
    output = tmp_path / "m.safetensors"
    table = tmp_path / "numbers.csv"
    table.write_text("\n".join(",".join(line) for line in csv_without(flowers, "kind")))
    code, text, error = run(
        capsys, "train", table, "--target", "code", "--epochs", "2", "--quiet", "--output", output
    )
    assert (code, text, error) == (0, "", "")
    assert output.is_file()


def test_json_is_json_even_where_a_number_is_none(tmp_path, capsys):
    """A class that the test part lacks has no recall."""
    table = tmp_path / "rare.csv"
    table.write_text("x,kind\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(40)) + "41,c\n")
    found = set()
    for seed in range(6):
        code, text, _ = run(
            capsys,
            "train",
            table,
            "--target",
            "kind",
            "--epochs",
            1,
            "--json",
            "--seed",
            seed,
            "--layers",
            "",
            "--output",
            tmp_path / "m.safetensors",
        )
        assert code == 0

        def refuse(constant):
            raise AssertionError(constant)

        found.update(json.loads(text, parse_constant=refuse)["test"]["recall"])
    assert None in found


def test_a_picture_never_replaces_the_model(flowers, tmp_path, capsys):
    table = tmp_path / "numbers.csv"
    table.write_text("\n".join(",".join(line) for line in csv_without(flowers, "kind")))
    output = tmp_path / "model.png"
    code, _, _ = run(
        capsys, "train", table, "--target", "code", "--epochs", 1, "--quiet", "--output", output
    )
    assert code == 0
    assert fb.load(output).metadata["target"] == "code"


def test_help_states_every_default(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in (
        "--layers",
        "--activation",
        "--loss",
        "--optimizer",
        "--learning-rate",
        "--epochs",
        "--batch-size",
        "--seed",
        "--patience",
        "--device",
        "--threads",
        "--quiet",
        "--json",
        "--output",
        "--task",
    ):
        assert option in text
        part = text.rsplit(f" {option} ", 1)[1].split(" --")[0]
        assert "(default: " in part, option


def test_info(capsys):
    code, text, _ = run(capsys, "info")
    assert code == 0
    assert f"fastbp {fb.__version__}" in text
    assert "cuda: " in text
    code, text, _ = run(capsys, "info", "--json")
    assert json.loads(text)["devices"][0]["available"] is True
