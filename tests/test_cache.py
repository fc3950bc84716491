"""The kernel cache on disk: used again, never stale, never in the way, never another's."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastbp.backends import compilation, object_cache
from fastbp.backends.compilation import digest_of_sources
from fastbp.backends.object_cache import MAGIC, read_entry, write_entry

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys
import numpy as np, fastbp as fb
X = np.linspace(-1, 1, 24).reshape(8, 3)
model = fb.Model(fb.mlp(3, 4, 1, activation="softsign"), dtype="float64")
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


def start(cache):
    """The same, begun and not waited for."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FASTBP_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


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
    # One that changes nothing: compiled anew all the same, with the same results.
    laws.write_text(text, encoding="utf-8")
    assert run(package, cache) == (first, False)
    driver = package / "fastbp" / "backends" / "cpu" / "driver.py"
    driver.write_text(driver.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert run(package, cache) == (first, True)


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


def test_processes_that_race_for_a_cold_folder(filled_cache, tmp_path):
    """Six at once, which all miss a few functions: the same bits, no error, and no rest."""
    cache, printed = filled_cache
    copy = shutil.copytree(cache, tmp_path / "cache")
    missing = sorted(copy.rglob("*.kernel"))[:3]
    for path in missing:
        path.unlink()
    processes = [start(copy) for _ in range(6)]
    for process in processes:
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert output.splitlines() == [printed, "with Numba"]
    assert all(path.exists() for path in missing)
    assert list(copy.rglob("*.part")) == []
    assert run(ROOT, copy) == (printed, False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no limits of files")
def test_a_disk_that_is_full(filled_cache, tmp_path):
    """The system refuses to write more than some bytes: everything is compiled, and no file stays."""
    cache, printed = filled_cache
    copy = shutil.copytree(cache, tmp_path / "cache")
    missing = sorted(copy.rglob("*.kernel"))[:2]
    for path in missing:
        path.unlink()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (999, 999))"
    done = subprocess.run(
        [sys.executable, "-c", f"{limit}\n{SCRIPT}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "FASTBP_CACHE_DIR": str(copy)},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, [printed, "with Numba"]), done.stderr
    assert not any(path.exists() for path in missing)
    assert list(copy.rglob("*.part")) == []


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


class Failing:
    """A file whose writing, or closing, is refused."""

    def __init__(self, file, name, error):
        self.file, self.name, self.error = file, name, error

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
        if self.name == "close" and error[0] is None:
            raise self.error

    def write(self, content):
        self.file.write(content[:100])
        if self.name == "write":
            raise self.error


WRITES = ["mkdir", "mkstemp", "write", "close", "replace"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("name", WRITES)
def test_a_disk_that_refuses_a_write_leaves_nothing_behind(name, number, folder, monkeypatch):
    """At each of the calls that write: no error, no file, and the next time all is well."""
    error = OSError(number, os.strerror(number))

    def refuse(*arguments, **keywords):
        raise error

    def opened(file, mode):
        return Failing(open(file, mode), name, error)

    with monkeypatch.context() as patch:
        if name == "mkdir":
            patch.setattr(Path, "mkdir", refuse)
        elif name == "mkstemp":
            patch.setattr(object_cache.tempfile, "mkstemp", refuse)
        elif name == "replace":
            patch.setattr(os, "replace", refuse)
        else:
            patch.setattr(object_cache, "open", opened, raising=False)
        write_entry("one", KEY, CODE)
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert read_entry("one", KEY) is None
    write_entry("one", KEY, CODE)
    assert read_entry("one", KEY) == CODE


def test_a_folder_that_can_only_be_read_is_read(folder, monkeypatch):
    write_entry("one", KEY, CODE)

    def refuse(*arguments, **keywords):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(object_cache.tempfile, "mkstemp", refuse)
    assert read_entry("one", KEY) == CODE
    write_entry("one", KEY[::-1], CODE)
    assert read_entry("one", KEY) == CODE
    assert len(entries(folder)) == 1


@pytest.mark.parametrize("damage", ["truncated", "one bit"])
def test_damage_at_any_place_is_a_miss(damage, folder):
    """Truncated at 50 places, or one bit of 50 wrong; also at the ends of the parts of a file."""
    write_entry("one", KEY, CODE)
    path = folder / "one" / f"{KEY}.kernel"
    content = path.read_bytes()
    parts = [0, 1, len(MAGIC), len(MAGIC) + 32, len(MAGIC) + 32 + len(KEY), len(content) - 1]
    for place in sorted({*parts, *np.linspace(0, len(content) - 1, 50).astype(int).tolist()}):
        spoilt = content[:place]
        if damage == "one bit":
            spoilt += bytes([content[place] ^ 1]) + content[place + 1 :]
        path.write_bytes(spoilt)
        assert read_entry("one", KEY) is None
    path.write_bytes(content)
    assert read_entry("one", KEY) == CODE


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
