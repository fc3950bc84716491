"""Whether memory can hold what is asked for, said before any of it is allocated.

Addresses and sizes are counted in 64 bits by compiled code, which sees no overflow. What this
machine's memory can hold stays far below that, so one check keeps both.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_bytes", "empty_array", "most_bytes"]

UNKNOWN = 2**62  # far more than there is, and sums of some of it do not overflow


@functools.cache
def most_bytes() -> int:
    """Memory and swap of this machine; where the system does not say, what can be counted."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
        return 1024 * (int(sizes["MemTotal"][0]) + int(sizes["SwapTotal"][0]))
    except (OSError, ValueError, KeyError, IndexError):
        return UNKNOWN


def check_bytes(argument: str, nbytes: int, what: str) -> None:
    """Refuse what this machine's memory cannot hold.

    Parameters
    ----------
    argument : str
        The name of what asks for so much.
    nbytes : int
    what : str
        What the memory is for.

    Raises
    ------
    MemoryError
    """
    most = most_bytes()
    if nbytes > most:
        raise MemoryError(
            f"{argument}: expected what fits into the {most / 2**30:,.1f} GiB of this machine's "
            f"memory; got {what}, {nbytes / 2**30:,.1f} GiB"
        )


def empty_array(argument: str, shape: tuple[int, ...], dtype: Any, what: str) -> NDArray[Any]:
    """A new array, if this machine's memory can hold it.

    Raises
    ------
    MemoryError
    """
    check_bytes(argument, math.prod(shape) * np.dtype(dtype).itemsize, what)
    return np.empty(shape, dtype=dtype)
