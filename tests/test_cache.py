"""The kernel cache on disk: used again, never stale, never in the way, never another's."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastbp.backends import object_cache
from fastbp.backends.object_cache import MAGIC, read_entry, write_entry

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys
import numpy as np, fastbp as fb
X = np.linspace(-1, 1, 24).reshape(8, 3)
block = fb.Residual([fb.LayerNorm(), fb.Dense(4), fb.Dropout(0.1)])
layers = [fb.Dense(4, "softsign"), block, fb.Dense(1)]
model = fb.Model(fb.Network(3, layers), dtype="float64")
print(fb.train(model, X, X[:, 0], epochs=2).loss, model.predict(X[:1].copy())[0, 0])
print("with Numba" if "numba" in sys.modules else "without Numba")
"""


def run(package, cache, **settings):
    """Train in a fresh process with a package and a cache folder: (results, with Numba or not)."""
    environment = {**os.environ, "PYTHONPATH": str(package), "FASTBP_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        cwd=package,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results, numba = done.stdout.splitlines()
    return results, numba == "with Numba"


def entries(cache):
    """Compiled code in a cache folder, with its time of writing."""
    return {path: path.stat().st_mtime_ns for path in Path(cache).rglob("*.kernel")}


@pytest.fixture
def package(tmp_path):
    shutil.copytree(
        ROOT / "fastbp",
        tmp_path / "package" / "fastbp",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return tmp_path / "package"


def test_a_second_process_compiles_nothing_and_an_edit_anywhere_is_seen(package, tmp_path):
    """Where everything is cached, Numba is not even imported."""
    cache = tmp_path / "cache"
    first, numba = run(package, cache)
    compiled = entries(cache)
    assert compiled
    assert numba
    assert run(package, cache) == (first, False)
    assert entries(cache) == compiled
    # An edit of a law, in a file that holds no kernel.
    laws = package / "fastbp" / "activations.py"
    text = laws.read_text(encoding="utf-8")
    changed = text.replace(
        "return z * shrink, shrink * shrink", "return z * shrink * shrink, shrink"
    )
    assert changed != text
    laws.write_text(changed, encoding="utf-8")
    assert run(package, cache)[0] != first


def test_settings_that_change_the_code_are_told_apart(package, tmp_path):
    cache = tmp_path / "cache"
    first, _ = run(package, cache)
    count = len(entries(cache))
    assert run(package, cache, NUMBA_BOUNDSCHECK="1") == (first, True)
    assert len(entries(cache)) == 2 * count
    assert run(package, cache, NUMBA_NUM_THREADS="1") == (first, False)
    assert run(package, cache, FASTBP_TILE_SHAPE="neon")[0] == first


def test_a_cache_folder_that_cannot_be_used_is_no_error(package, tmp_path):
    """A file stands where the folder should be: everything is compiled, nothing is raised."""
    blocked = tmp_path / "blocked"
    blocked.write_text("not a folder", encoding="utf-8")
    results, numba = run(package, blocked / "cache")
    assert numba
    assert float(results.split()[0]) > 0


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory):
    """A cache folder that one process has filled, and what that process printed."""
    cache = tmp_path_factory.mktemp("filled") / "cache"
    return cache, run(ROOT, cache)[0]


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: b"x" * 99,
    "one bit": lambda content: content[:-200] + bytes([content[-200] ^ 1]) + content[-199:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_a_miss_and_is_mended(damage, filled_cache, tmp_path):
    """Every cached file spoilt: the same result, and no error."""
    cache, printed = filled_cache
    copy = shutil.copytree(cache, tmp_path / "cache")
    for path in copy.rglob("*.kernel"):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert run(ROOT, copy) == (printed, True)
    assert run(ROOT, copy) == (printed, False)


# The functions that read and write, in this process.

KEY, CODE = "0123456789abcdef", b"\x7fELF, or so it says" * 100


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path))
    return tmp_path / "fastbp"


def test_what_was_written_is_read_and_the_folder_is_private(folder):
    assert read_entry("one", KEY) is None
    write_entry("one", KEY, CODE)
    assert read_entry("one", KEY) == CODE
    assert read_entry("two", KEY) is None
    assert read_entry("one", KEY[::-1]) is None
    for made in (folder, folder / "one"):
        assert made.stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in (folder / "one").iterdir()] == [".kernel"]


def test_an_entry_under_anothers_name_is_a_miss(folder):
    write_entry("one", KEY, CODE)
    place = folder / "one" / f"{KEY}.kernel"
    place.rename(place.with_name(f"{KEY[::-1]}.kernel"))
    assert read_entry("one", KEY[::-1]) is None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="the system knows no owners")
def test_what_others_could_have_written_is_not_run(folder, tmp_path, monkeypatch):
    write_entry("one", KEY, CODE)
    place = folder / "one" / f"{KEY}.kernel"
    for shared in (place, folder / "one", folder):
        mode = shared.stat().st_mode
        shared.chmod(0o777)
        assert read_entry("one", KEY) is None
        shared.chmod(mode)
        assert read_entry("one", KEY) == CODE
    folder.chmod(0o777)
    write_entry("one", KEY[::-1], CODE)
    assert len(entries(folder)) == 1
    folder.chmod(0o700)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert read_entry("one", KEY) is None
    place.unlink()
    (tmp_path / "elsewhere").rename(place)
    assert read_entry("one", KEY) == CODE
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    assert read_entry("one", KEY) is None


def test_a_full_disk_leaves_nothing_behind(folder, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        write_entry("one", KEY, CODE)
    assert list((folder / "one").iterdir()) == []
    assert read_entry("one", KEY) is None


def test_old_generations_go(folder):
    names = [f"generation {i}" for i in range(6)]
    for i, name in enumerate(names):
        write_entry(name, KEY, CODE)
        os.utime(folder / name, ns=(i * 10**9, i * 10**9))
    write_entry(names[-1], KEY[::-1], CODE)
    left = {path.name for path in folder.iterdir()}
    assert left == set(names[-object_cache.MOST_GENERATIONS :])


def test_the_place_of_the_cache(monkeypatch, tmp_path):
    for name in ("FASTBP_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert object_cache.cache_folder() == tmp_path / ".cache" / "fastbp"
    for name in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "FASTBP_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
        assert object_cache.cache_folder() == tmp_path / name / "fastbp"


# What the object code may ask the process for: mathematics and moving memory.
LIBRARY = {"pow", "powf", "exp", "log", "memcpy", "memset", "memmove", "sqrt", "sqrtf"}


def undefined_symbols(code):
    """Names that an ELF object for a 64-bit machine leaves to the linker."""

    def number(place, size):
        return int.from_bytes(code[place : place + size], "little")

    assert code[:5] == b"\x7fELF\x02"
    table, size, count = number(0x28, 8), number(0x3A, 2), number(0x3C, 2)
    sections = [table + size * i for i in range(count)]
    names = set()
    for section in sections:
        if number(section + 4, 4) != 2:  # no table of symbols
            continue
        start, length = number(section + 24, 8), number(section + 32, 8)
        strings = number(sections[number(section + 40, 4)] + 24, 8)
        for symbol in range(start + 24, start + length, 24):
            if number(symbol + 6, 2) == 0:
                first = strings + number(symbol, 4)
                names.add(code[first : code.index(b"\0", first)].decode())
    return names


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF")
def test_cached_code_needs_nothing_of_numba_and_allocates_nothing(filled_cache):
    """No symbol that only an imported Numba could supply, no allocation, no Python."""
    cache, _ = filled_cache
    found = set()
    for path in entries(cache):
        code = path.read_bytes()
        assert code.startswith(MAGIC)
        assert code[len(MAGIC) :][:32] == hashlib.sha256(code[len(MAGIC) + 32 :]).digest()
        found |= undefined_symbols(code[code.index(b"\x7fELF") :])
    assert found <= LIBRARY
    assert "pow" in found  # Adam's bias correction: the reader does find symbols
