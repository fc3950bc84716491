"""Compiled functions on disk, of all backends: one file of machine code each, in a private folder.

A file holds a magic line, the SHA-256 of the rest, the key and the code. It is written under a
temporary name and renamed, so that a file is whole or absent. Whatever is wrong with a file or a
folder (damaged, truncated, another's, not readable, no space left) is a miss: the caller compiles.
This process will run the code, so folder and files must belong to the user, and nobody else may
write to them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path

__all__ = ["cache_folder", "read_entry", "write_entry"]

logger = logging.getLogger("fastbp")

MAGIC = b"fastbp object code 1\n"
SUM_BYTES = 32
PRIVATE = 0o700
# Folders of earlier sources that stay: a change of branch and back compiles nothing anew.
MOST_GENERATIONS = 3


def cache_folder() -> Path:
    """Where compiled functions are kept.

    FASTBP_CACHE_DIR names another place than the user's cache folder; so does NUMBA_CACHE_DIR,
    since it says where compiled code shall go.
    """
    for variable in ("FASTBP_CACHE_DIR", "NUMBA_CACHE_DIR"):
        named = os.environ.get(variable)
        if named:
            return Path(named) / "fastbp"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "fastbp"


def is_private(status: os.stat_result) -> bool:
    """Whether a file or folder is this user's, and nobody else may write to it."""
    if not hasattr(os, "getuid"):
        return True  # such systems keep the cache of a user in the user's own profile
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def is_private_folder(folder: Path) -> bool:
    """The same for a folder, which must be no link."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and is_private(status)


def place_of(generation: str, key: str) -> Path:
    """The file of an entry."""
    return cache_folder() / generation / f"{key}.kernel"


def read_entry(generation: str, key: str) -> bytes | None:
    """The code of an entry, or None.

    Parameters
    ----------
    generation : str
        Digest of the sources: the name of a folder.
    key : str
        Hexadecimal digest of all else that the code depends on: the name of a file.
    """
    try:
        path = place_of(generation, key)
        if not (is_private_folder(path.parent.parent) and is_private_folder(path.parent)):
            return None
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not (stat.S_ISREG(status.st_mode) and is_private(status)):
                return None
            content = file.read()
    except (OSError, RuntimeError):  # Path.expanduser raises the latter where nobody is at home
        return None
    start = len(MAGIC) + SUM_BYTES
    head, rest = content[:start], content[start:]
    if head != MAGIC + hashlib.sha256(rest).digest() or not rest.startswith(key.encode()):
        return None
    return rest[len(key) :]


def write_entry(generation: str, key: str, code: bytes) -> None:
    """Keep the code of an entry, if the disk allows it."""
    rest = key.encode() + code
    try:
        path = place_of(generation, key)
        for folder in (path.parent.parent, path.parent):
            folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            if not is_private_folder(folder):
                logger.debug("no cache in %s: others may write to it", folder)
                return
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with open(descriptor, "wb") as file:
                file.write(MAGIC + hashlib.sha256(rest).digest() + rest)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        remove_old_generations(path.parent)
    except (OSError, RuntimeError) as error:
        logger.debug("no cache entry written: %r", error)


def remove_old_generations(current: Path) -> None:
    """Keep the folders that were written to last, `current` among them, and remove the others."""
    others = [folder for folder in current.parent.iterdir() if folder.name != current.name]
    if len(others) < MOST_GENERATIONS:
        return
    others.sort(key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
    for folder in others[MOST_GENERATIONS - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)
