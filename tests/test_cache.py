"""The kernel cache on disk: used again, never stale, never in the way, never another's."""

import hashlib
import os
import sys

import cache_abuse
import pytest
from cache_abuse import FEW, ROOT, entries, small_entries

from fastbp.backends import compilation
from fastbp.backends.compilation import digest_of_sources
from fastbp.backends.object_cache import MAGIC

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


def run(package, cache, script=SCRIPT, **settings):
    """Train in a fresh process: (results, with Numba or not)."""
    return cache_abuse.run(package, cache, script, **settings)


@pytest.fixture
def package(tmp_path):
    return cache_abuse.copy_of_package(tmp_path)


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory):
    """A cache folder that one process has filled, and what that process printed."""
    return cache_abuse.fill(tmp_path_factory.mktemp("filled"), SCRIPT)


def test_a_second_process_compiles_nothing_and_an_edit_anywhere_is_seen(
    package, filled_cache, tmp_path
):
    """Where everything is cached, Numba is not even imported; the same sources elsewhere will do."""
    cache, _ = filled_cache.copy(tmp_path)
    first, compiled = filled_cache.printed, entries(cache)
    assert compiled
    assert run(package, cache) == (first, False)
    assert entries(cache) == compiled
    # An edit that changes nothing, in a file that is compiled: all is compiled anew.
    driver = package / "fastbp" / "backends" / "cpu" / "driver.py"
    text = driver.read_text(encoding="utf-8")
    driver.write_text(text + "\n", encoding="utf-8")
    few = run(package, cache, FEW)
    assert few[1]
    assert run(package, cache, FEW) == (few[0], False)
    driver.write_text(text, encoding="utf-8")
    assert run(package, cache) == (first, False)
    # An edit of a law, in a file that holds no kernel.
    predicted = run(package, cache, cache_abuse.PREDICT)[0]
    laws = package / "fastbp" / "activations.py"
    text = laws.read_text(encoding="utf-8")
    changed = text.replace(cache_abuse.LAW, cache_abuse.WRONG_LAW)
    assert changed != text
    laws.write_text(changed, encoding="utf-8")
    assert run(package, cache, cache_abuse.PREDICT)[0] != predicted


def test_an_edit_in_any_file_makes_other_keys(package, monkeypatch):
    """Every source file; also one that comes, goes, or gets another name."""
    folder = package / "fastbp"
    monkeypatch.setattr(compilation, "__file__", str(folder / "backends" / "compilation.py"))

    def digest():
        return digest_of_sources.__wrapped__()

    first = digest()
    seen = {first}
    files = sorted(folder.rglob("*.py"))
    assert len(files) == len(list((ROOT / "fastbp").rglob("*.py"))) > 100
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        assert digest() not in seen
        seen.add(digest())
        path.write_bytes(content)
    assert digest() == first
    path.rename(path.with_name("renamed.py"))
    assert digest() not in seen
    path.with_name("renamed.py").unlink()
    assert digest() not in seen
    path.write_bytes(content)
    assert digest() == first
    (folder / "another.py").touch()
    assert digest() not in seen


def test_settings_that_change_the_code_are_told_apart(filled_cache, tmp_path):
    """And where Numba checks bounds, of which kernels have none, the bits are the same."""
    cache, _ = filled_cache.copy(tmp_path)
    first, count = filled_cache.printed, len(entries(cache))
    assert run(ROOT, cache, NUMBA_BOUNDSCHECK="1") == (first, True)
    assert len(entries(cache)) == 2 * count
    assert run(ROOT, cache, NUMBA_NUM_THREADS="1") == (first, False)


def test_a_cache_folder_that_cannot_be_used_is_no_error(tmp_path):
    """A file stands where the folder should be: everything is compiled, nothing is raised."""
    blocked = tmp_path / "blocked"
    blocked.write_text("not a folder", encoding="utf-8")
    assert run(ROOT, blocked / "cache", FEW)[1]
    assert blocked.read_text(encoding="utf-8") == "not a folder"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has other rights and limits")
@pytest.mark.parametrize("abuse", [cache_abuse.race, cache_abuse.full, cache_abuse.read_only])
def test_what_can_happen_to_a_cache(abuse, filled_cache, tmp_path):
    abuse(tmp_path, filled_cache)


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: b"x" * 99,
    "one bit": lambda content: content[:-200] + bytes([content[-200] ^ 1]) + content[-199:],
}


def test_damaged_files_are_misses_and_are_mended(filled_cache, tmp_path):
    """The same result, and no error."""
    copy, _ = filled_cache.copy(tmp_path)
    printed = filled_cache.printed
    for path, damage in zip(small_entries(copy, len(DAMAGES)), DAMAGES.values(), strict=True):
        path.write_bytes(damage(path.read_bytes()))
    assert run(ROOT, copy) == (printed, True)
    assert run(ROOT, copy) == (printed, False)


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
    found = set()
    for path in entries(filled_cache.cache):
        code = path.read_bytes()
        assert code.startswith(MAGIC)
        assert code[len(MAGIC) :][:32] == hashlib.sha256(code[len(MAGIC) + 32 :]).digest()
        found |= undefined_symbols(code[code.index(b"\x7fELF") :])
    assert found <= LIBRARY
    assert "pow" in found  # Adam's bias correction: the reader does find symbols
