"""The files of the kernel cache: whole or a miss, private, and never an error."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from fastbp.backends import object_cache
from fastbp.backends.object_cache import MAGIC, read_entry, write_entry

KEY, CODE = "0123456789abcdef", b"\x7fELF, or so it says" * 100


def entries(folder):
    """The files in a cache folder."""
    return list(folder.rglob("*.kernel"))


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
