"""What can happen to the kernel cache on disk, and what has to come of it: the same result, no error.

Each abuse takes a folder to work in and a cache that was filled, and raises an AssertionError where
it does not go as it should.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
SECONDS = 240  # for one process, which may have to compile everything beside others
# A few functions that are compiled soon.
FEW = """
import sys
from fastbp.backends.cpu.machine_code import bind
print(all([bind("call_in_mode"), bind("reduce_tiles", "float64"), bind("store_rows", "float64")]))
print("with Numba" if "numba" in sys.modules else "without Numba")
"""
# Some more, and a number that they give.
PREDICT = """
import sys
import numpy as np, fastbp as fb
model = fb.Model(fb.mlp(3, 4, 1, activation="softsign"), dtype="float64")
print(model.predict(np.linspace(-1, 1, 3).reshape(1, 3))[0, 0])
print("with Numba" if "numba" in sys.modules else "without Numba")
"""
# A law, and another in its place, of which a stale kernel would not know.
LAW, WRONG_LAW = (
    "return z * shrink, shrink * shrink",
    "return z * shrink * shrink, shrink",
)
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (99, 99))\n"
# The superuser gives up the right to write where nobody may.
READ_ONLY = """
import ctypes, os
libc = ctypes.CDLL(None)
if hasattr(libc, "capset"):
    assert libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
try:
    open(os.path.join(os.environ["FASTBP_CACHE_DIR"], "fastbp", "file"), "w")
except PermissionError:
    pass
else:
    raise SystemExit("the folder can be written")
"""


def start(package, cache, script, **settings):
    """Begin a fresh process with a package and a cache folder."""
    environment = {**os.environ, "PYTHONPATH": str(package), "FASTBP_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**environment, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=package,
    )


def finish(process):
    """Wait for a process: what it printed first, and whether it took Numba."""
    try:
        output, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, f"{errors}\nit ended with {process.returncode}"
    results, numba = output.splitlines()
    return results, numba == "with Numba"


def run(package, cache, script, **settings):
    """Run a script in a fresh process: (results, with Numba or not)."""
    return finish(start(package, cache, script, **settings))


def entries(cache):
    """Compiled code in a cache folder, with its time of writing."""
    return {path: path.stat().st_mtime_ns for path in Path(cache).rglob("*.kernel")}


def small_entries(cache, count):
    """The smallest files of a cache, which are compiled soonest."""
    return sorted(cache.rglob("*.kernel"), key=lambda path: path.stat().st_size)[:count]


def copy_of_package(folder):
    """A copy of the sources; returns where to import it from."""
    kept = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastbp", folder / "package" / "fastbp", ignore=kept)
    return folder / "package"


@dataclass(frozen=True)
class Filled:
    """A cache that a script has filled, and what the script printed."""

    cache: Path
    script: str
    printed: str
    package: Path = ROOT

    def copy(self, folder, without=0):
        """A copy of the cache that lacks some of the smallest entries; it, and what it lacks."""
        copy = shutil.copytree(self.cache, folder / "cache")
        missing = small_entries(copy, without)
        for path in missing:
            path.unlink()
        return copy, missing

    def run(self, cache, before=""):
        """The script with another cache: (results, with Numba or not)."""
        return run(self.package, cache, before + self.script)


def fill(folder, script, package=ROOT):
    """Fill a cache."""
    cache = folder / "filled"
    return Filled(cache, script, run(package, cache, script)[0], package)


def is_clean(cache):
    """Whether no writer left a part of a file."""
    return list(cache.rglob("*.part")) == []


def cold(folder, filled):
    """An empty folder: everything is compiled once."""
    cache = folder / "cold"
    assert filled.run(cache) == (filled.printed, True)
    assert filled.run(cache) == (filled.printed, False)
    assert is_clean(cache)


def read_only(folder, filled):
    """What is there is read, the rest is compiled, nothing is written."""
    copy, missing = filled.copy(folder, without=2)
    folders = [path for path in copy.rglob("*") if path.is_dir()]
    for each in folders:
        each.chmod(0o500)
    try:
        assert filled.run(copy, READ_ONLY) == (filled.printed, True)
    finally:
        for each in folders:
            each.chmod(0o700)
    assert not any(path.exists() for path in missing)
    assert is_clean(copy)


def full(folder, filled):
    """The system refuses to write more than some bytes: what is missing is compiled, no file stays."""
    copy, missing = filled.copy(folder, without=2)
    assert filled.run(copy, FULL_DISK) == (filled.printed, True)
    assert not any(path.exists() for path in missing)
    assert is_clean(copy)


def truncated(folder, filled, shares=(0.0, 0.5, 0.99)):
    """Files that end after these shares of their length: compiled anew, and mended."""
    copy, _ = filled.copy(folder)
    for path, share in zip(small_entries(copy, len(shares)), shares, strict=True):
        os.truncate(path, int(share * path.stat().st_size))
    assert filled.run(copy) == (filled.printed, True)
    assert filled.run(copy) == (filled.printed, False)


def edited(folder, filled):
    """Another law: its result, not that of the kernel on disk; and back, what was there serves."""
    copy, _ = filled.copy(folder)
    package = copy_of_package(folder)
    before = entries(copy)
    laws = package / "fastbp" / "activations.py"
    text = laws.read_text(encoding="utf-8")
    assert text.count(LAW) == 1
    laws.write_text(text.replace(LAW, WRONG_LAW), encoding="utf-8")
    results, numba = run(package, copy, filled.script)
    assert numba
    assert results != filled.printed
    laws.write_text(text, encoding="utf-8")
    assert run(package, copy, filled.script) == (filled.printed, False)
    assert entries(copy).items() >= before.items()


def race(folder, filled, processes=6):
    """Several at once, which all miss a few functions: the same bits, no error, and no rest."""
    copy, missing = filled.copy(folder, without=3)
    started = [start(filled.package, copy, filled.script) for _ in range(processes)]
    found = [finish(process) for process in started]
    assert found == [(filled.printed, True)] * processes
    assert all(path.exists() for path in missing)
    assert is_clean(copy)
    assert filled.run(copy) == (filled.printed, False)


def shares_of_a_file(count):
    """So many places of a file, as shares of its length, both ends among them."""
    return np.linspace(0.0, 0.999, count).tolist()


ABUSES = {
    "cold folder": cold,
    "folder that can only be read": read_only,
    "full disk": full,
    "edited source": edited,
    "6 processes at once": race,
}
