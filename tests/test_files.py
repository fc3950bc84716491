"""Model files and tables."""

import gzip
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbp as fb
from fastbp.tables import read_table, write_csv


@pytest.fixture
def trained(small):
    X, y = small
    network = fb.Network(3, [fb.Dense(5, fb.LeakyRelu(0.2)), fb.Dense(4, "gelu"), fb.Dense(1)])
    model = fb.Model(network, dtype="float64", seed=4)
    fb.train(model, X, y, epochs=2, standardize=True)
    model.metadata = {"columns": ["a", "b", "ü"], "classes": None}
    return model


def test_a_model_comes_back_to_the_bit(trained, small, tmp_path):
    X, _ = small
    path = tmp_path / "net.safetensors"
    trained.save(path)
    loaded = fb.load(path)
    assert loaded.network == trained.network
    assert (loaded.dtype, loaded.seed, loaded.metadata) == ("float64", 4, trained.metadata)
    assert np.array_equal(loaded.parameters, trained.parameters)
    assert np.array_equal(loaded.predict(X), trained.predict(X))
    assert os.listdir(tmp_path) == ["net.safetensors"]
    loaded.save(path)
    assert np.array_equal(fb.load(str(path)).parameters, trained.parameters)


def test_other_tools_can_read_a_model_file(trained, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file

    path = tmp_path / "net.safetensors"
    trained.save(path)
    tensors = load_file(path)
    assert np.array_equal(tensors["0.weight"], trained.weights["0.weight"])
    with safe_open(path, framework="numpy") as file:
        described = file.metadata()
    assert json.loads(described["network"])["layers"][0]["activation"]["slope"] == 0.2
    assert described["fastbp_version"] == fb.__version__


def test_a_model_can_be_copied_and_pickled_by_others(trained, small):
    """joblib, multiprocessing and copy move models between processes; fastbp itself never does."""
    import copy

    X, _ = small
    other = copy.deepcopy(trained)
    assert np.array_equal(other.predict(X), trained.predict(X))
    other.weights["0.bias"][...] += 1
    assert not np.array_equal(other.parameters, trained.parameters)
    assert np.shares_memory(other.weights["0.bias"], other.parameters)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: no such file"):
        fb.load(tmp_path / "none.safetensors")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        fb.load(tmp_path)
    for content in (b"", b"{}", b"\0" * 100, b"PK\x03\x04 something else", b"\xff" * 8 + b"{}"):
        path = tmp_path / "other"
        path.write_bytes(content)
        with pytest.raises(fb.CheckpointError, match="damaged, or not a safetensors file"):
            fb.load(path)
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3)}, path)
    with pytest.raises(fb.CheckpointError, match="not a fastbp model"):
        fb.load(path)


def test_every_truncation_and_bit_flip_of_a_small_file_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    fb.Model(fb.mlp(2, 2, 1)).save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(fb.CheckpointError):
            fb.load(path)
    for position in range(len(content)):
        for bit in (0, 3, 7):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(fb.CheckpointError):
                fb.load(path)


def test_a_failed_save_leaves_the_old_file(trained, tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    trained.save(path)
    content = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trained.save(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["net.safetensors"]
    with pytest.raises(FileNotFoundError):
        trained.save(tmp_path / "no" / "folder")


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    opener = gzip.open if name.endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return str(path)


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_csv_with_a_header(tmp_path, name):
    text = '\ufeffa, b ,"c, d"\n1,2.5,x\n-3e2,nan,"y, z"\n\n+4,.5,1\n'
    table = read_table(write(tmp_path, text, name))
    assert list(table.columns) == ["a", "b", "c, d"]
    assert table.rows == 3
    assert table.columns["a"].tolist() == [1.0, -300.0, 4.0]
    assert table.columns["c, d"].tolist() == ["x", "y, z", "1"]
    with pytest.raises(ValueError, match=r"finite numbers in column 'b'; got nan in line 3"):
        table.numbers(["a", "b"])


BAD_TABLES = {
    "empty file": ("", "at least one row"),
    "header alone": ("a,b\n", "at least one row"),
    "ragged": ("a,b\n1,2\n3\n", "expected 2 cells as in the header; got 1 in line 3"),
    "long": ("a,b\n1,2,3\n", "expected 2 cells as in the header; got 3 in line 2"),
    "repeated": ("a,b,a\n1,2,3\n", "every column once; got a again"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_csv(tmp_path, name):
    text, message = BAD_TABLES[name]
    with pytest.raises(ValueError, match=message):
        read_table(write(tmp_path, text))


def test_text_and_missing_columns_are_named(tmp_path):
    table = read_table(write(tmp_path, "a,b\n1,2\n2,oops\n3,\n"))
    with pytest.raises(ValueError, match=r"number in column 'b'; got 'oops' in line 3"):
        table.numbers(["a", "b"])
    with pytest.raises(ValueError, match=r"no target column 'c'; the columns are a, b"):
        table.column("c", "target column")
    other = read_table(write(tmp_path, "a,b\n1,\n2,4\n"))
    with pytest.raises(ValueError, match=r"'b'; got an empty cell in line 2"):
        other.numbers(["b"])
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_table(tmp_path / "none.csv")
    path = write(tmp_path, "a,b\n1,2\n", "table.csv.gz")
    with open(path, "r+b") as file:
        file.truncate(12)
    with pytest.raises(ValueError, match="cannot be read as CSV"):
        read_table(path)


def test_lines_are_counted_as_an_editor_does(tmp_path):
    table = read_table(write(tmp_path, 'a,b\n1,2\n\n\n"two\nlines",oops\n'))
    with pytest.raises(ValueError, match="'b'; got 'oops' in line 6"):
        table.numbers(["b"])
    assert read_table(write(tmp_path, "a,b\n1,2\n   \n3,4\n")).rows == 2
    assert read_table(write(tmp_path, "a,b\n1_0,2\n")).columns["a"].tolist() == ["1_0"]
    single = read_table(write(tmp_path, "a\n1\n\n3\n"))
    assert single.rows == 3
    with pytest.raises(ValueError, match="'a'; got an empty cell in line 3"):
        single.numbers(["a"])


def test_a_damaged_gz_is_one_clear_error(tmp_path):
    path = write(tmp_path, "a,b\n" + "1,2\n" * 500, "table.csv.gz")
    with open(path, "r+b") as file:
        file.seek(20)
        file.write(b"\xff" * 8)
    with pytest.raises(ValueError, match="cannot be read as CSV"):
        read_table(path)


def test_predictions_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "out.csv"
    write_csv(path, {"x": [1.5]})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_csv(path, {"x": [2.5]})
    assert path.read_text(encoding="utf-8").split() == ["x", "1.5"]
    assert os.listdir(tmp_path) == ["out.csv"]


def test_numpy_tables(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, X=np.arange(6.0).reshape(3, 2), y=np.arange(3))
    table = read_table(path)
    assert list(table.columns) == ["X0", "X1", "y"]
    assert table.numbers(["X1", "y"]).tolist() == [[1, 0], [3, 1], [5, 2]]
    flat = tmp_path / "data.npy"
    np.save(flat, np.ones((4, 2)))
    assert list(read_table(flat).columns) == ["0", "1"]
    np.save(flat, np.zeros(3, dtype=[("a", "f4"), ("b", "U3")]))
    assert list(read_table(flat).columns) == ["a", "b"]
    np.savez(path, x=np.zeros(3) + 1j)
    with pytest.raises(ValueError, match="real numbers in column 'x'; got complex128"):
        read_table(path).numbers(["x"])
    np.savez(path, x=np.array(["2026-01-01"], dtype="datetime64[D]"))
    with pytest.raises(ValueError, match="real numbers in column 'x'; got datetime64"):
        read_table(path).numbers(["x"])
    np.savez(path, kind=np.array([b"yes", b"no"]))
    assert read_table(path).columns["kind"].tolist() == ["yes", "no"]
    np.savez(path, a=np.zeros(3), b=np.zeros(4))
    with pytest.raises(ValueError, match=r"columns of one length; got a \(3\), b \(4\)"):
        read_table(path)
    np.save(flat, np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="one or two dimensions"):
        read_table(flat)
    # What reading would have to unpickle, which is refused.
    np.save(flat, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as NumPy arrays"):
        read_table(flat)
    flat.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="cannot be read as NumPy arrays"):
        read_table(flat)


@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
)
@settings(max_examples=50)
def test_csv_round_trip_keeps_every_digit(values, tmp_path_factory):
    path = tmp_path_factory.mktemp("round") / "trip.csv"
    names = [f"name, {i}" for i in range(len(values))]
    write_csv(path, {"x": values, "label": names})
    table = read_table(path)
    assert table.columns["x"].tolist() == values
    assert table.columns["label"].tolist() == names
