"""Writing files whole or not at all, and keeping the file before.

A reader, and whoever comes after a crash, sees the old file or the new one. The new content goes to
a temporary file beside the old one, is flushed to the disk and renamed; then the folder is flushed,
without which a rename may be lost with the power.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator

__all__ = ["check_readable", "previous_of", "write_whole"]

KEPT = ".previous"
# Of temporary names: ``.NAME.0123456789abcdef`` and one of these.
PARTIAL, LINK = ".partial", ".link"
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
NO_FLUSH = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


def check_readable(name: str) -> None:
    """Refuse what is no file that can be read, in words.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
    """
    if not os.path.exists(name):
        raise FileNotFoundError(f"{name}: no such file")
    if os.path.isdir(name):
        raise IsADirectoryError(f"{name}: is a folder")
    if not os.access(name, os.R_OK):
        raise PermissionError(f"{name}: may not be read")


def previous_of(path: str | os.PathLike[str]) -> str:
    """The name under which `write_whole` keeps the file before: beside what a link points to."""
    return os.path.realpath(os.fsdecode(path)) + KEPT


def write_whole(
    path: str | os.PathLike[str], content: bytes | bytearray, *, keep_previous: bool = False
) -> None:
    """Replace a file by new content, or leave it as it was and raise OSError.

    A link stays a link: what it points to is replaced. Temporary files of writers of this name that
    were killed are removed first.

    Parameters
    ----------
    path : str or path-like
    content : bytes or bytearray
    keep_previous : bool
        Whether the file that is replaced stays, as ``PATH.previous``. ``PATH`` exists at every
        moment all the same.

    Raises
    ------
    OSError
        With the name that the user gave. Only where the folder cannot be flushed at the very end
        has the new file taken its place already.
    """
    name = os.fsdecode(path)
    try:
        final = target_of(name)
        remove_leftovers(final)
        with opened_folder(final) as folder, temporary_beside(final) as (descriptor, stem):
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
            if keep_previous:
                keep(final, stem)
            os.replace(stem + PARTIAL, final)
            flush_folder(folder)
    except OSError as error:  # the user knows this name alone
        raise OSError(error.errno, error.strerror, name) from None


def target_of(name: str) -> str:
    """The absolute name of the file that is written: links are followed."""
    final = os.path.realpath(name)
    code = 0
    if os.path.islink(final):
        code = errno.ELOOP
    elif os.path.isdir(final):
        code = errno.EISDIR
    elif os.path.exists(final) and not os.path.isfile(final):
        code = errno.EINVAL  # a device or a pipe would be replaced by a file
    if code:
        raise OSError(code, os.strerror(code))
    return final


@contextlib.contextmanager
def opened_folder(final: str) -> Iterator[int | None]:
    """The folder of a file, open; None where it may be written but not read."""
    try:
        descriptor = os.open(os.path.dirname(final), os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def flush_folder(descriptor: int | None) -> None:
    """Flush the names of a folder to the disk, where its file system can do that."""
    if descriptor is None:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FLUSH:
            raise


@contextlib.contextmanager
def temporary_beside(final: str) -> Iterator[tuple[int, str]]:
    """A new file, open for writing, and its name without ``.partial``; it goes when this ends.

    Its writer holds a lock on it, which the system takes back when the writer dies.
    """
    folder, base = os.path.split(final)
    while True:
        stem = os.path.join(folder, f".{base}.{secrets.token_hex(8)}")
        # Opened like any new file, so the permissions are those that the user's umask gives.
        descriptor = os.open(stem + PARTIAL, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        # Another writer may have come before the lock, and taken this file for a dead one's.
        if is_locked(descriptor, otherwise=True) and os.path.exists(stem + PARTIAL):
            break
        os.close(descriptor)
    try:
        yield descriptor, stem
    finally:
        with contextlib.suppress(OSError):
            os.unlink(stem + PARTIAL)
        os.close(descriptor)


def is_locked(descriptor: int, *, otherwise: bool) -> bool:
    """Whether the lock could be taken; `otherwise` where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return otherwise
    return True


def remove_leftovers(final: str) -> None:
    """Remove what killed writers of a file left beside it; what cannot be removed stays."""
    folder, base = os.path.split(final)
    pattern = re.compile(
        rf"\.{re.escape(base)}\.[0-9a-f]{{16}}(?:{re.escape(PARTIAL)}|{re.escape(LINK)})"
    )
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if pattern.fullmatch(name):
                remove_dead(os.path.join(folder, os.path.splitext(name)[0]))


def remove_dead(stem: str) -> None:
    """Remove the temporary names of one writer, unless it lives."""
    try:
        descriptor = os.open(stem + PARTIAL, os.O_RDWR)
    except FileNotFoundError:
        # A writer gives its file the final name last, so this one has no use for its link.
        with contextlib.suppress(OSError):
            os.unlink(stem + LINK)
        return
    except OSError:
        return
    try:
        if is_locked(descriptor, otherwise=False):
            for ending in (LINK, PARTIAL):
                with contextlib.suppress(OSError):
                    os.unlink(stem + ending)
    finally:
        os.close(descriptor)


def keep(final: str, stem: str) -> None:
    """Give the file, if there is one, its second name ``PATH.previous``, without losing the first.

    By a hard link, or a copy where there are none; under a temporary name first, since a link
    cannot replace a file.
    """
    link = stem + LINK
    try:
        try:
            os.link(final, link)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            copy_flushed(final, link)
        os.replace(link, final + KEPT)
    finally:
        # Renaming leaves both names where they are links of one file: after a kill in between.
        with contextlib.suppress(OSError):
            os.unlink(link)


def copy_flushed(source: str, target: str) -> None:
    """Copy a file to a new one and flush it to the disk."""
    with open(source, "rb") as old, open(target, "xb") as new:
        shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())
