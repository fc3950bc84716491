"""The CUDA kernels' cache: used again, never stale, never another architecture's, no own laws in it.

Where there is no compiler, a stand-in makes the code; no test needs a GPU.
"""

import dataclasses
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastbp.activations import Activation
from fastbp.backends import compilation
from fastbp.backends.compilation import Notice, spelled
from fastbp.backends.cuda import machine_code
from fastbp.backends.cuda.entries import Entry, Kernel, Phase
from fastbp.backends.cuda.machine_code import Codes, laws_of, unpacked
from fastbp.elementary import constant
from fastbp.errors import DeviceError

ROOT = Path(__file__).parents[1]
HAS_COMPILER = importlib.util.find_spec("numba_cuda_mlir") is not None
CHIP = "sm_90"


def cube(z, settings):
    """A law of a user's."""
    return z * z * z, constant(3.0, z) * z * z


def entry_of(law, **keywords):
    """An entry whose kernel has a law."""
    kernel = Kernel("dense_forward", law, (64, 64), (True, True), (("setting_count", 0),))
    return Entry("float32", (Phase("propagate", (Kernel("order_rows"), kernel), 64),), **keywords)


ENTRY = entry_of(Activation.resolve("tanh").law)
OWN = entry_of(cube)
PLAIN = Entry("float64", (Phase("advance"),))


class Compiler:
    """A stand-in: code that says what it is for."""

    def __init__(self):
        self.calls = []

    def __call__(self, entry, chip):
        self.calls.append((entry, chip))
        return f"\x7fELF code of {entry} for {chip}, {len(self.calls)}".encode(), entry.symbol


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path))
    compiler = Compiler()
    monkeypatch.setattr(machine_code, "compile_entry", compiler)
    return compiler


def files(folder):
    return sorted(Path(folder).rglob("*.kernel"))


def test_compiled_once_and_read_by_the_next_process(compiler, tmp_path):
    first = Codes()
    code, symbol = first.code_of(ENTRY, CHIP)
    assert symbol == ENTRY.symbol == "fastbp_propagate_float32"
    assert first.code_of(entry_of(Activation.resolve("tanh").law), CHIP) == (code, symbol)
    assert len(first.codes) == len(first.compiled) == len(compiler.calls) == 1
    later = Codes()
    assert later.code_of(ENTRY, CHIP) == (code, symbol)
    assert (len(later.codes), later.compiled, len(compiler.calls)) == (1, [], 1)
    assert len(files(tmp_path)) == 1


def test_everything_in_an_entry_and_the_architecture_tell_codes_apart(compiler, tmp_path):
    entries = [
        ENTRY,
        entry_of(Activation.resolve("relu").law),
        entry_of(Activation.resolve("tanh").law, resident=True),
        entry_of(Activation.resolve("tanh").law, resident=True, single=True),
        entry_of(Activation.resolve("tanh").law, blocks=2),
        dataclasses.replace(ENTRY, dtype="float64"),
        PLAIN,
    ]
    codes = Codes()
    found = {codes.code_of(entry, chip) for entry in entries for chip in (CHIP, "sm_120")}
    assert len(found) == len(compiler.calls) == len(files(tmp_path)) == 2 * len(entries)
    assert len(set(map(spelled, entries))) == len(entries)


def test_code_is_for_the_devices_own_architecture(compiler, monkeypatch):
    monkeypatch.setattr(machine_code, "CODES", Codes())
    assert b"for sm_120" in ENTRY.code((12, 0))
    assert b"for sm_90" in ENTRY.code((9, 0))
    assert machine_code.compiled_count() == 2


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: b"x" * 99,
    "one bit": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_a_miss_and_is_mended(damage, compiler, tmp_path):
    Codes().code_of(ENTRY, CHIP)
    (path,) = files(tmp_path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    again = Codes().code_of(ENTRY, CHIP)
    assert len(compiler.calls) == 2
    assert Codes().code_of(ENTRY, CHIP) == again
    assert len(compiler.calls) == 2


@pytest.mark.parametrize("content", [None, b"", b"\0\x7fELF", b"name", b"name\0", b"name\0code"])
def test_what_is_no_named_code_is_a_miss(content):
    assert unpacked(content) is None
    assert unpacked(b"name\0\x7fELF\0") == (b"\x7fELF\0", "name")


def test_edited_sources_are_seen(compiler, monkeypatch, tmp_path):
    Codes().code_of(ENTRY, CHIP)
    monkeypatch.setattr(machine_code, "digest_of_sources", lambda: "other")
    Codes().code_of(ENTRY, CHIP)
    assert len(compiler.calls) == 2
    assert {path.parent.name for path in files(tmp_path)} == {
        compilation.digest_of_sources(),
        "other",
    }


@pytest.mark.parametrize(
    ("name", "value", "counts"),
    [
        ("NUMBA_CUDA_DEBUGINFO", "1", True),
        ("CUDA_HOME", "/nowhere", True),
        ("NUMBA_NUM_THREADS", "1", False),
        ("CUDA_VISIBLE_DEVICES", "0", False),
    ],
)
def test_settings_that_change_the_code_are_told_apart(name, value, counts, compiler, monkeypatch):
    monkeypatch.delenv(name, raising=False)
    machine_code.circumstances.cache_clear()
    Codes().code_of(ENTRY, CHIP)
    monkeypatch.setenv(name, value)
    machine_code.circumstances.cache_clear()
    Codes().code_of(ENTRY, CHIP)
    machine_code.circumstances.cache_clear()
    assert len(compiler.calls) == 1 + counts


def test_versions_of_the_compiler_are_told_apart(compiler, monkeypatch):
    for version in ("0.6.0", "0.6.1", "0.6.1"):
        monkeypatch.setattr(machine_code, "version_of", lambda package, v=version: v)
        machine_code.circumstances.cache_clear()
        Codes().code_of(ENTRY, CHIP)
    machine_code.circumstances.cache_clear()
    assert len(compiler.calls) == 2


def test_a_users_law_is_compiled_anew_in_each_process(compiler, tmp_path):
    assert list(laws_of(OWN)) == [cube]
    codes = Codes()
    assert codes.code_of(OWN, CHIP) == codes.code_of(OWN, CHIP)
    assert len(compiler.calls) == 1
    Codes().code_of(OWN, CHIP)
    assert len(compiler.calls) == 2
    assert files(tmp_path) == []


def test_threads_compile_an_entry_once(compiler):
    codes, found = Codes(), []
    threads = [
        threading.Thread(target=lambda: found.append(codes.code_of(ENTRY, CHIP))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(compiler.calls) == 1
    assert len(found) == 8


def failing(error):
    def compile_entry(entry, chip):
        raise error

    return compile_entry


def test_what_cannot_be_compiled(compiler, monkeypatch, tmp_path):
    monkeypatch.setattr(machine_code, "compile_entry", failing(ValueError("no such type")))
    codes = Codes()
    with pytest.raises(DeviceError, match=r"propagate, float32, Tanh\.law cannot .*no such type"):
        codes.code_of(ENTRY, CHIP)
    with pytest.raises(TypeError, match=r"the law test_cuda_cache:cube cannot .*no such type"):
        codes.code_of(OWN, CHIP)
    for error in (MemoryError(), DeviceError("as it is"), SystemExit()):
        monkeypatch.setattr(machine_code, "compile_entry", failing(error))
        with pytest.raises(type(error)):
            codes.code_of(OWN, CHIP)
    assert len(codes.codes) == 0
    assert files(tmp_path) == []
    monkeypatch.setattr(machine_code, "compile_entry", compiler)
    assert codes.code_of(OWN, CHIP)


def test_a_compiler_that_comes_to_no_end_is_left(compiler, monkeypatch):
    """The caller gets an error in time; so do later ones, until the compiler is free."""
    end = threading.Event()

    def compile_entry(entry, chip):
        if entry == OWN:
            end.wait()
        return compiler(entry, chip)

    monkeypatch.setattr(machine_code, "compile_entry", compile_entry)
    monkeypatch.setattr(machine_code, "SECONDS", 0.05)
    codes = Codes()
    with pytest.raises(TypeError, match=r"the law test_cuda_cache:cube cannot .*no end after"):
        codes.code_of(OWN, CHIP)
    with pytest.raises(DeviceError, match=r"still busy with propagate, float32, cube"):
        codes.code_of(ENTRY, CHIP)
    end.set()
    monkeypatch.setattr(machine_code, "SECONDS", 60.0)
    assert codes.code_of(ENTRY, CHIP)
    assert codes.code_of(OWN, CHIP)


def test_one_line_while_compiling_takes_long(compiler, monkeypatch, caplog):
    said = threading.Event()

    class Quick(Notice):
        PATIENCE = 0.0

        def say(self, name):
            super().say(name)
            said.set()

    def compile_entry(entry, chip):
        assert said.wait(60)
        return compiler(entry, chip)

    monkeypatch.setattr(machine_code, "compile_entry", compile_entry)
    codes = Codes()
    codes.notice = Quick("GPU")
    with caplog.at_level(logging.WARNING, logger="fastbp"):
        codes.code_of(ENTRY, CHIP)
        codes.code_of(PLAIN, CHIP)
    (record,) = caplog.records
    assert "compiling kernels for this GPU (now propagate, float32, Tanh.law)" in record.message
    assert record.message.endswith("from the cache")  # `fastbp warmup` compiles for the processor


# With the compiler itself, in processes of their own.

SCRIPT = """
import json, sys
from fastbp.backends.cuda import machine_code
from fastbp.backends.cuda.entries import Entry, Phase
entry = Entry("float32", (Phase("advance"),))
code = entry.code((9, 0))
print(json.dumps({
    "head": list(code[:4]), "length": len(code), "has symbol": entry.symbol.encode() in code,
    "compiled": len(machine_code.CODES.compiled), "imported": "numba_cuda_mlir" in sys.modules,
}))
"""


def run(package, cache):
    """Make one entry's code in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(package), "FASTBP_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=package, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not HAS_COMPILER, reason="numba-cuda-mlir is not installed")
def test_a_second_process_imports_no_compiler_and_an_edit_is_seen(tmp_path):
    package, cache = tmp_path / "package", tmp_path / "cache"
    shutil.copytree(
        ROOT / "fastbp", package / "fastbp", ignore=shutil.ignore_patterns("__pycache__")
    )
    first = run(package, cache)
    assert first["head"] == list(b"\x7fELF")
    assert first["has symbol"]
    assert (first["compiled"], first["imported"]) == (1, True)
    assert run(package, cache) == {**first, "compiled": 0, "imported": False}
    laws = package / "fastbp" / "activations.py"
    laws.write_text(laws.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert run(package, cache) == first
