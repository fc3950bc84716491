"""Files of runs and models that were damaged or forged: each is a CheckpointError, and no other."""

import random

import numpy as np
import pytest
from mutations import DAMAGES, FORGERIES, join, sealed, split, survey
from test_checkpoint_files import model_file, model_parts, parts

import fastbp as fb
from fastbp.checkpoint import RunFile, read_run_file, write_run_file

MUTATIONS = 2000


def small_run(dtype="float32"):
    network = fb.mlp(1, 1)
    model = fb.Model(network, dtype, seed=1)
    content = model_file()
    content.network, content.dtype, content.scaling = network, dtype, None
    content.tensors, content.metadata = dict(model.weights), {}
    return RunFile(content, {"rate": np.full(1, 0.1)}, {"epoch": 1})


def write(path, content):
    path.unlink(missing_ok=True)  # cutting a file off to write it anew waits for the disk
    path.write_bytes(content)


def refused(path, content, read=read_run_file):
    write(path, content)
    with pytest.raises(fb.CheckpointError):
        read(path)


def test_every_length_of_a_small_file(tmp_path):
    path = tmp_path / "run"
    write_run_file(path, small_run())
    content = path.read_bytes()
    for length in range(len(content)):
        refused(path, content[:length])
    refused(path, content + b"\0")
    write(path, content)
    assert parts(read_run_file(path)) == parts(small_run())


def test_every_bit_of_a_small_file(tmp_path):
    path = tmp_path / "run"
    write_run_file(path, small_run())
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            refused(path, changed)


def test_every_page_of_a_larger_file(tmp_path):
    path = tmp_path / "run"
    run = small_run()
    run.tensors["moments"] = np.random.default_rng(0).normal(size=40_000)
    write_run_file(path, run)
    content = path.read_bytes()
    assert len(content) > 75 * 4096
    for page in range(0, len(content), 4096):
        for length in (page - 1, page, page + 1):
            refused(path, content[: max(length, 0)])
        zeroed = content[:page] + bytes(len(content[page : page + 4096])) + content[page + 4096 :]
        refused(path, zeroed)


def test_mutated_files_of_runs(tmp_path):
    path = tmp_path / "run"
    tensors = {"a": np.arange(3.0), "n": np.arange(4), "b": np.zeros((), np.uint8)}
    write_run_file(path, RunFile(model_file("float32"), tensors, {"epoch": 1, "list": [1, {}]}))
    outcomes = survey(
        path,
        path.read_bytes(),
        lambda path: parts(read_run_file(path)),
        (random.Random(i) for i in range(MUTATIONS)),
    )
    assert sum(outcomes.values()) == MUTATIONS
    for kind in [*DAMAGES, *FORGERIES]:
        assert outcomes[kind.__name__, "refused"] > 20, kind.__name__
    assert outcomes["forged_texts", "other"] > 5  # some are files that say something else


def test_mutated_files_of_models(tmp_path):
    path = tmp_path / "net.safetensors"
    content = model_file()
    model = fb.Model(content.network, "float64", seed=4)
    model.scaling, model.metadata = content.scaling, {"columns": ["a", 1]}
    model.save(path)
    generators = (random.Random(-i) for i in range(1, MUTATIONS + 1))
    outcomes = survey(path, path.read_bytes(), lambda path: model_parts(fb.load(path)), generators)
    assert sum(outcomes.values()) == MUTATIONS
    assert sum(count for (_, outcome), count in outcomes.items() if outcome == "refused") > 1500


def entry(shape=(1,), place=(0, 8), kind="F64", **more):
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(place), **more}


NOT_DESCRIBED = "is not described by dtype, shape and data_offsets"
HEADERS = {
    "twice": ('{"a": {}, "a": {}}', "a key stands twice in the header"),
    "twice inside": ('{"a": {"b": 1, "b": 1}}', "a key stands twice in the header"),
    "nan": ('{"a": NaN}', "NaN stands in the header"),
    "depth": ('{"a": ' + "[" * 100_000, "recursion"),
    "list": ("[]", "no header"),
    "blank first": (' {"a": 1}', "no header"),
    "utf-16": ("{}".encode("utf-16"), "codec can't decode"),
    "half a name": ('{"\\ud800": 1}', "surrogates not allowed"),
    "texts": ('{"__metadata__": {"format": 1}}', "does not consist of texts"),
    "gap": ({"a": entry(place=(8, 16))}, "overlap, or leave a gap"),
    "overlap": ({"a": entry(), "b": entry()}, "overlap, or leave a gap"),
    "long": ({"a": entry((3,), (0, 24))}, "are 24 bytes; the file has 16"),
    "short": ({"a": entry()}, "are 8 bytes; the file has 16"),
    "negative": ({"a": entry((-1,), (8, 0))}, "'a' has no possible shape"),
    "huge": ({"a": entry((1 << 63, 0), (0, 0))}, "'a' has no possible shape"),
    "wide": ({"a": entry([1] * 33)}, "'a' has no possible shape"),
    "true": ({"a": entry((True,))}, "'a' has no possible shape"),
    "place": ({"a": entry(place=(0, 8.0))}, "'a' has no possible place"),
    "size": ({"a": entry((2,))}, "'a' has a place that is not as long as its shape says"),
    "dtype": ({"a": entry(kind="BF16")}, "'a' has a dtype that is none of F64, I64, F32, U8"),
    "more": ({"a": entry(more=1)}, NOT_DESCRIBED),
    "number": ({"a": 3}, NOT_DESCRIBED),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_read_strictly(name, tmp_path):
    header, message = HEADERS[name]
    path = tmp_path / "net"
    if isinstance(header, dict):
        texts = ("format", "fastbp_version", "network", "dtype", "seed", "metadata", "sha256")
        described = dict.fromkeys(texts, "") | {"format": "fastbp-model-1"}
        header = {"__metadata__": described, **header}
    write(path, join(header, bytes(16)))
    with pytest.raises(fb.CheckpointError, match=f"damaged, or not a safetensors file .*{message}"):
        fb.load(path)


FORGED = {
    "seed": ("seed", "-1", "seed: expected an integer of at least 0"),
    "digits": ("seed", "9" * 5000, "Exceeds the limit"),
    "dtype": ("dtype", "f8", "dtype: expected float32 or float64; got 'f8'"),
    "layer": ("network", '{"inputs": 3, "layers": [{"name": "x"}]}', "'x' is not registered"),
    "depth": ("network", "[" * 100_000, "recursion"),
    "kind": ("network", "[1]", "list indices"),
    "notes": ("notes", "[]", "notes: expected a dict; got list"),
    "metadata": ("metadata", "{", "Expecting property name"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_texts_are_named(name, tmp_path):
    key, text, message = FORGED[name]
    path = tmp_path / "run"
    write_run_file(path, small_run())
    header, data = split(path.read_bytes())
    header["__metadata__"][key] = text
    write(path, sealed(header, data))
    with pytest.raises(fb.CheckpointError, match=f"run: cannot be read as .*{message}"):
        read_run_file(path)
    with pytest.raises(fb.CheckpointError, match=message):
        fb.load(path)


def test_numbers_that_no_float_can_hold_are_refused(tmp_path):
    path = tmp_path / "net"
    fb.Model(fb.Network(1, [fb.Dense(1, fb.LeakyRelu(0.2))])).save(path)
    header, data = split(path.read_bytes())
    texts = header["__metadata__"]
    texts["network"] = texts["network"].replace("0.2", "1" + "0" * 400)
    write(path, sealed(header, data))
    with pytest.raises(fb.CheckpointError, match="slope: expected a finite number"):
        fb.load(path)


def test_messages_stay_short_and_printable(tmp_path):
    path = tmp_path / "run"
    write_run_file(path, small_run())
    header, data = split(path.read_bytes())
    header["\x1b[31m" * 10_000] = 3
    write(path, join(header, data))
    with pytest.raises(fb.CheckpointError) as error:
        read_run_file(path)
    assert len(str(error.value)) < 300 + len(str(path))
    assert "\x1b" not in str(error.value)
