"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

__all__ = ["check_readable", "write_whole"]


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


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace a file by new content, or leave it as it was and raise OSError.

    The content goes to a temporary file beside it, which is flushed to the disk and then renamed.
    """
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(8)}")
    # Opened like any new file, so the permissions are those that the user's umask gives.
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(final)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):  # the user knows the final name alone
            raise type(error)(error.errno, error.strerror, str(final)) from None
        raise
