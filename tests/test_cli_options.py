"""Options of `fastbp train` for weights, smoothing, averages and kept runs, and their wrong use."""

import numpy as np
import pytest
from commands import SMALL, in_python, trained

import fastbp as fb
from fastbp.cli import main

pytestmark = pytest.mark.usefixtures("own_folder", "no_pictures")


def test_options_mean_the_arguments_of_train(table, capsys):
    plain, counts = in_python(table)
    assert counts[2] > 1.5 * counts[0]
    balanced = ",".join(
        f"{name}={sum(counts) / (3 * count)!r}"
        for name, count in zip(("lily, white", "rose", "tulip"), counts, strict=True)
    )
    cases = {
        (): {},
        ("--class-weight", "balanced"): {"class_weight": "balanced"},
        ("--class-weight", balanced): {"class_weight": "balanced"},
        ("--class-weight", "tulip=0.5, lily, white=3"): {"class_weight": [3, 1, 0.5]},
        ("--label-smoothing", 0.1): {"loss": fb.CrossEntropy(0.1)},
        ("--ema", 0.9): {"ema": 0.9},
    }
    for options, keywords in cases.items():
        trained(capsys, table, *SMALL, "--epochs", 4, "--output", "m", *options)
        expected, _ = in_python(table, **keywords)
        assert np.array_equal(fb.load("m").parameters, expected.parameters), options
        assert np.array_equal(expected.parameters, plain.parameters) == (not options)


def test_two_classes_that_are_numbers(tmp_path, capsys):
    rows = [f"{i % 17},{int(i % 17 > 12)}" for i in range(120)]
    (tmp_path / "t.csv").write_text("x,y\n" + "\n".join(rows) + "\n", encoding="utf-8")
    loss = ("--loss", "binary_cross_entropy", "--label-smoothing", 0.2, "--epochs", 3)
    arguments = ("t.csv", "--target", "y", "--layers", "", "--quiet", *loss, "--output")
    found = []
    for i, options in enumerate(((), ("0=2,1=2",), ("1=3",), ("0=1,1=3",))):
        weights = ("--class-weight", *options) if options else ()
        trained(capsys, *arguments, f"m{i}", *weights)
        found.append(fb.load(f"m{i}").parameters)
    assert np.array_equal(found[2], found[3])
    assert not np.allclose(found[1], found[3])
    assert np.allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize("names", [("a", "a=b"), ("a=1", "a"), ("x,y=2", "x")])
def test_names_of_classes_with_signs_in_them(names, tmp_path, capsys):
    cells = [f'{i},"{names[i % 2]}"' for i in range(60)]
    (tmp_path / "t.csv").write_text("x,y\n" + "\n".join(cells) + "\n", encoding="utf-8")
    text = f"{names[0]}=3,{names[1]}=0.5"
    arguments = ("t.csv", "--target", "y", "--layers", "", "--epochs", 1, "--quiet")
    trained(capsys, *arguments, "--output", "one", "--class-weight", text)
    other = f"{names[1]}=1,{names[0]}=6"
    trained(capsys, *arguments, "--output", "two", "--class-weight", other)
    assert np.array_equal(fb.load("one").parameters, fb.load("two").parameters)


# fmt: off
WRONG = {
    "unknown class": (["--class-weight", "rose=1,daisy=2"], "--class-weight: expected balanced or NAME=WEIGHT,NAME=WEIGHT with names out of lily, white, rose, tulip; got 'daisy=2'"),
    "no weight": (["--class-weight", "rose="], "--class-weight: expected a number for 'rose'; got ''"),
    "weight of text": (["--class-weight", "rose=much"], "--class-weight: expected a number for 'rose'; got 'much'"),
    "negative weight": (["--class-weight", "rose=-1"], "--class-weight rose: expected a finite number in [0, inf); got -1.0"),
    "nan weight": (["--class-weight", "rose=nan"], "--class-weight rose: expected a finite number"),
    "twice": (["--class-weight", "rose=1,rose=1"], "--class-weight: expected every class once; got 'rose' again"),
    "empty weights": (["--class-weight", ""], "--class-weight: expected balanced or NAME=WEIGHT"),
    "zeros": (["--class-weight", "rose=0,tulip=0,lily, white=0"], "--class-weight: expected a weight above 0"),
    "weights of numbers": (["--target", "length", "--class-weight", "balanced"], "--class-weight: expected classes; got a target of numbers with the loss mse"),
    "smoothing": (["--label-smoothing", "1"], "--label-smoothing: expected a finite number in [0, 1); got 1.0"),
    "smoothing nan": (["--label-smoothing", "nan"], "--label-smoothing: expected a finite number"),
    "smoothing of numbers": (["--target", "length", "--label-smoothing", "0.1"], "--label-smoothing: expected the loss cross_entropy or binary_cross_entropy; got mse"),
    "ema": (["--ema", "1"], "--ema: expected a finite number in (0, 1); got 1.0"),
    "resume alone": (["--resume"], "--resume: expected --checkpoint FILE as well; got none"),
    "every alone": (["--checkpoint-every", "3"], "--checkpoint-every: expected --checkpoint FILE as well"),
    "every text": (["--checkpoint", "c", "--checkpoint-every", "often"], "--checkpoint-every: expected a number of epochs such as 5, or of minutes such as 10m; got 'often'"),
    "every hour": (["--checkpoint", "c", "--checkpoint-every", "1h"], "--checkpoint-every: expected a number of epochs"),
    "every 0": (["--checkpoint", "c", "--checkpoint-every", "0"], "--checkpoint-every: expected an integer of at least 1; got 0"),
    "every 0m": (["--checkpoint", "c", "--checkpoint-every", "0m"], "--checkpoint-every: expected a finite number in (0, inf)"),
    "checkpoint empty": (["--checkpoint", ""], "--checkpoint: expected the name of a file; got an empty one"),
    "checkpoint folder": (["--checkpoint", "."], "--checkpoint: expected the name of a file; . is a folder"),
    "checkpoint nowhere": (["--checkpoint", "no/c"], "--checkpoint: no such folder: no"),
    "checkpoint data": (["--checkpoint", "{table}"], "is the data itself"),
    "checkpoint model": (["--checkpoint", "m", "--output", "./m"], "--checkpoint: m is written with the model (--output)"),
    "checkpoint picture": (["--checkpoint", "m.png", "--output", "m"], "--checkpoint: m.png is written with the model (--output)"),
}
# fmt: on


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_is_one_line_and_writes_nothing(name, table, tmp_path, capsys, monkeypatch):
    arguments, message = WRONG[name]
    folder = tmp_path / "empty"
    folder.mkdir()
    path = tmp_path / table
    if "length" in arguments:
        path.write_text("length,width\n" + "1,2\n3,4\n" * 20, encoding="utf-8")
    content = path.read_bytes()
    monkeypatch.chdir(folder)
    filled = [each.format(table=path) for each in arguments]
    text, error = trained(capsys, path, "--target", "kind", *filled, code=1)
    assert text == ""
    assert error.startswith("fastbp: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert list(folder.iterdir()) == []
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("every", "epochs", "minutes"),
    [("3", 3, None), ("10m", None, 10.0), ("0.5min", None, 0.5), ("2 min", None, 2.0)],
)
def test_intervals(every, epochs, minutes, table, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(fb.Checkpoint, "is_due", lambda self, *_: bool(seen.append(self)))
    arguments = ("--epochs", 1, "--checkpoint", "c", "--checkpoint-every", every)
    trained(capsys, table, *SMALL, *arguments)
    assert {(each.path, each.every_epochs, each.every_minutes) for each in seen} == {
        ("c", epochs, minutes)
    }


def test_help_speaks_of_runs(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option in (
        "--label-smoothing S", "--class-weight WEIGHTS", "--ema F", "--checkpoint FILE",
        "--checkpoint-every N", "--resume",
    ):  # fmt: skip
        part = text.rsplit(f" {option} ", 1)[1]
        assert part.find("(default: ") in range(1, 140), option
