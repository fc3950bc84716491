"""The kernel cache on disk: used again, never stale, never in the way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = """
import numpy as np, fastbp as fb
X = np.linspace(-1, 1, 24).reshape(8, 3)
model = fb.Model(fb.mlp(3, 4, 1, activation="softsign"), dtype="float64")
print(fb.train(model, X, X[:, 0], epochs=2).loss)
"""


def run(package, cache):
    """Train in a fresh process with a package and a cache folder."""
    environment = {**os.environ, "PYTHONPATH": str(package), "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        cwd=package,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def entries(cache):
    """Compiled code in a cache folder, with its time of writing."""
    return {path: path.stat().st_mtime_ns for path in Path(cache).rglob("*.nbc")}


@pytest.fixture
def package(tmp_path):
    shutil.copytree(
        ROOT / "fastbp",
        tmp_path / "package" / "fastbp",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return tmp_path / "package"


def test_a_second_process_compiles_nothing_and_an_edit_anywhere_is_seen(package, tmp_path):
    cache = tmp_path / "cache"
    first = run(package, cache)
    compiled = entries(cache)
    assert compiled
    assert run(package, cache) == first
    assert entries(cache) == compiled
    # An edit of a law, in a file that holds no kernel.
    laws = package / "fastbp" / "activations.py"
    text = laws.read_text(encoding="utf-8")
    changed = text.replace(
        "return z * shrink, shrink * shrink", "return z * shrink * shrink, shrink"
    )
    assert changed != text
    laws.write_text(changed, encoding="utf-8")
    assert run(package, cache) != first


def test_a_cache_folder_that_cannot_be_used_is_no_error(package, tmp_path):
    """A file stands where the folder should be: everything is compiled, nothing is raised."""
    blocked = tmp_path / "blocked"
    blocked.write_text("not a folder", encoding="utf-8")
    assert float(run(package, blocked / "cache")) > 0


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory):
    """A cache folder that one process has filled, and what that process printed."""
    cache = tmp_path_factory.mktemp("filled") / "cache"
    return cache, run(ROOT, cache)


@pytest.mark.parametrize(
    ("ending", "damage"),
    [("nbc", "truncated"), ("nbc", "garbage"), ("nbi", "truncated"), ("nbi", "empty")],
)
def test_a_damaged_cache_is_a_miss(ending, damage, filled_cache, tmp_path):
    """Every cached file spoilt: the same result, and no error."""
    cache, printed = filled_cache
    copy = shutil.copytree(cache, tmp_path / "cache")
    for path in copy.rglob(f"*.{ending}"):
        content = path.read_bytes()
        spoilt = {"truncated": content[: len(content) // 2], "garbage": b"x" * 99, "empty": b""}
        path.write_bytes(spoilt[damage])
    assert run(ROOT, copy) == printed
