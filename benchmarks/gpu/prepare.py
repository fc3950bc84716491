"""Compiling all that a run needs, into the cache, on a machine that may have no GPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu import checks
from benchmarks.gpu.fastbp_side import compile_kernels
from benchmarks.gpu.helpers import Task
from benchmarks.workloads import WORKLOADS
from fastbp.backends import choose

__all__ = ["COMMANDS", "preparing_tasks"]


class Prepared(Exception):
    """Everything that would be launched is compiled."""


class PreparingDevice:
    """Compiles what it is to load, and stops the caller at the first launch.

    Parameters
    ----------
    compute_capability : (int, int)
        Of the GPU that is to run the kernels.
    shared_bytes : int
        The most dynamic shared memory that a block has there.
    """

    ordinal, name, multiprocessors = 0, "a GPU to come", 132

    def __init__(self, compute_capability: tuple[int, int], shared_bytes: int) -> None:
        self.compute_capability, self.shared_bytes = compute_capability, shared_bytes
        self.next_address = 256

    def free_bytes(self) -> int:
        """As much as anybody wants."""
        return 1 << 45

    def allocate(self, nbytes: int) -> int:
        """An address that nobody will use."""
        address = self.next_address
        self.next_address += -(-max(nbytes, 1) // 256) * 256
        return address

    def free(self, address: int) -> None:
        """Nothing was taken."""

    def upload(self, address: int, array: Any) -> None:
        """Nothing is kept."""

    def download(self, array: Any, address: int) -> None:
        """Nothing was kept."""
        array[...] = 0

    def fill_zero(self, address: int, nbytes: int) -> None:
        """Nothing is kept."""

    def function(self, entry: Any) -> Any:
        """Compile a kernel."""
        entry.code(self.compute_capability)
        return entry

    def most_blocks(self, handle: Any, block: int, shared_bytes: int) -> int:
        """One on each multiprocessor."""
        return self.multiprocessors

    def launch(self, *arguments: Any, **keywords: Any) -> None:
        """All kernels are there."""
        raise Prepared

    capture = synchronize = launch


@contextlib.contextmanager
def prepared(compute_capability: tuple[int, int], shared_bytes: int) -> Iterator[None]:
    """Have a PreparingDevice for a GPU, and end quietly at the first launch."""
    before = choose.why_not_cuda, choose.cuda_device
    device = PreparingDevice(compute_capability, shared_bytes)
    choose.why_not_cuda = lambda ordinal=None: ""
    choose.cuda_device = lambda name: device
    try:
        with contextlib.suppress(Prepared):
            yield
    finally:
        choose.why_not_cuda, choose.cuda_device = before


def prepare(
    kind: str, arguments: dict[str, Any], capability: tuple[int, int], shared_bytes: int
) -> dict[str, Any]:
    """Compile the kernels of one check or row."""
    functions = {
        "golden": lambda number, dtype: checks.train_golden(number, dtype, 1, "cuda"),
        "step": lambda workload: checks.train_workload(
            WORKLOADS[workload], "float64", WORKLOADS[workload].batch_size, "cuda"
        ),
        "hashes": lambda workload, way, dtype: checks.train_one_way(
            WORKLOADS[workload], way, dtype, "cuda"
        ),
        "row": compile_kernels,
    }
    with prepared((capability[0], capability[1]), shared_bytes):
        functions[kind](**arguments)
    return {"process": os.getpid()}


def preparing_tasks(
    capability: tuple[int, int], shared_bytes: int, rows: list[str], hashed: list[dict[str, str]]
) -> list[Task]:
    """Everything, the rows of the table first."""
    wanted: list[tuple[str, dict[str, Any]]] = [("row", {"row": row}) for row in rows]
    wanted += [("hashes", dict(case)) for case in hashed]
    wanted += [("step", {"workload": name}) for name in WORKLOADS]
    wanted += [
        ("golden", {"number": number, "dtype": dtype})
        for dtype in ("float64", "float32")
        for number in range(checks.GOLDEN_CASES)
    ]
    return [
        Task(
            f"{kind} {' '.join(map(str, arguments.values()))}",
            "prepare",
            "prepare",
            {
                "kind": kind,
                "arguments": arguments,
                "capability": list(capability),
                "shared_bytes": shared_bytes,
            },
            seconds=1800.0,
        )
        for kind, arguments in wanted
    ]


COMMANDS = {"prepare": prepare}
