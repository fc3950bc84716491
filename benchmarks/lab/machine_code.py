"""Machine code of CUDA kernels, made and read where there is no GPU.

A kernel is compiled in a process of its own, which is ended when the time is up: the compiler does
not always come to an end. What is read is what NVIDIA's tools print of the code (CUDA Binary
Utilities): the resources of the kernel, and its instructions.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Code", "compile_all", "missing", "read_code", "resident_blocks"]

INSTALL = "pip install '.[cuda-test]'"
SECONDS = 150.0  # that one kernel may take: about thirty times what the largest takes

# Of a multiprocessor (CUDA C++ Programming Guide, compute capabilities 8.0 and 9.0): bytes of
# shared memory, of which the system takes 1 KiB for each block.
SHARED_BYTES = {"sm_80": 164 * 1024, "sm_90": 228 * 1024}
SYSTEM_BYTES, SHARED_UNIT = 1024, 128
REGISTERS, REGISTER_UNIT = 65_536, 256  # a warp gets multiples of the unit
WARPS, BLOCKS = 64, 32
WARP = 32


def tool() -> str | None:
    """The program that reads machine code: beside the compiler's own, or on the path."""
    places = [*os.environ.get("PATH", "").split(os.pathsep)]
    found = importlib.util.find_spec("nvidia")
    for root in found.submodule_search_locations or () if found else ():
        places[:0] = [str(place) for place in sorted(Path(root).glob("cu1*/bin"))]
    return shutil.which("cuobjdump", path=os.pathsep.join(places))


def missing() -> str:
    """What is not installed that compiling and reading need; an empty string if nothing is."""
    if importlib.util.find_spec("numba_cuda_mlir") is None:
        return f"numba-cuda-mlir is not installed: {INSTALL}"
    return "" if tool() else f"cuobjdump is not installed: {INSTALL}"


@dataclass(frozen=True)
class Code:
    """What was read of a kernel.

    Attributes
    ----------
    registers, stack, local, shared : int
        Registers of a thread; bytes of its stack and of its local memory; bytes of shared memory
        that a block has besides what its launch asks for.
    opcodes : Counter
        Instructions by name, such as ``LDG.E.128``.
    loop : Counter
        The same of the innermost loop that has the most multiply-adds.
    error : str
        Why there is nothing else.
    """

    registers: int = 0
    stack: int = 0
    local: int = 0
    shared: int = 0
    opcodes: Counter[str] = field(default_factory=Counter)
    loop: Counter[str] = field(default_factory=Counter)
    error: str = ""


INSTRUCTION = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?);", re.MULTILINE
)
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
MULTIPLY_ADDS = ("FFMA", "DFMA", "HMMA")


def count(opcodes: Counter[str], *names: str) -> int:
    """Instructions of these names, with whatever follows a name."""
    return sum(number for name, number in opcodes.items() if name.split(".")[0] in names)


def busiest_loop(instructions: list[tuple[int, str, str]]) -> Counter[str]:
    """The instructions of the smallest loop that has as many multiply-adds as any.

    A loop is what lies between a jump backwards and its target.
    """
    best: tuple[int, int, Counter[str]] = (0, 0, Counter())
    places = [address for address, *_ in instructions]
    found = []
    for i, (address, name, rest) in enumerate(instructions):
        target = re.search(r"0x([0-9a-f]+)\s*$", rest)
        if name.split(".")[0] == "BRA" and target and int(target[1], 16) < address:
            begin = places.index(int(target[1], 16))
            found.append((begin, i))
    # Of a loop that has another one inside, the product's own part is the inner one.
    innermost = [
        (begin, end)
        for begin, end in found
        if not any(
            begin <= other and last <= end and (begin, end) != (other, last)
            for other, last in found
        )
    ]
    for begin, end in innermost:
        inside = Counter(name for _, name, _ in instructions[begin : end + 1])
        candidate = (count(inside, *MULTIPLY_ADDS), begin - end, inside)
        if candidate[:2] > best[:2]:
            best = candidate
    return best[2]


def read_code(cubin: bytes) -> Code:
    """Resources and instructions of the only kernel in a cubin."""
    program = tool()
    assert program
    places = f"{Path(program).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage, text = (
            subprocess.run(
                [program, option, str(path)],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "PATH": places},
            ).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    # The last line is the kernel's; one before it may be of what all kernels of a file share.
    registers, stack, shared, local = map(int, USAGE.findall(usage)[-1])
    instructions = [(int(a, 16), name, rest) for a, name, rest in INSTRUCTION.findall(text)]
    return Code(
        registers,
        stack,
        local,
        shared - SYSTEM_BYTES if shared >= SYSTEM_BYTES else shared,  # for sm_90 with the system's
        Counter(name for _, name, _ in instructions),
        busiest_loop(instructions),
    )


def resident_blocks(chip: str, threads: int, registers: int, shared: int) -> int:
    """Blocks that a multiprocessor holds at a time."""
    warps = threads // WARP
    of_a_warp = -(-registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    of_a_block = -(-(shared + SYSTEM_BYTES) // SHARED_UNIT) * SHARED_UNIT
    by_registers = REGISTERS // of_a_warp // warps
    return min(BLOCKS, WARPS // warps, by_registers, SHARED_BYTES[chip] // of_a_block)


def serve(work: Callable[[Any], Code], connection: Any) -> None:
    """What a compiling process does: answer one case after the other."""
    while True:
        case = connection.recv()
        if case is None:
            return
        try:
            connection.send(work(case))
        except Exception as error:  # which may be one that cannot be sent
            connection.send(Code(error=f"{type(error).__name__}: {error}"[:2000]))


class Compiler:
    """A process that compiles, replaced when it does not come to an end."""

    def __init__(self, work: Callable[[Any], Code]) -> None:
        self.work, self.process = work, None

    def start(self) -> None:
        """Start the process."""
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process: Any = context.Process(target=serve, args=(self.work, other), daemon=True)
        self.process.start()
        other.close()

    def compile(self, case: Any, seconds: float) -> Code:
        """The code of a case, or why there is none."""
        if self.process is None:
            self.start()
        try:
            self.connection.send(case)
            if self.connection.poll(seconds):
                found: Code = self.connection.recv()
                return found
            error = f"no end after {seconds:g} seconds"
        except (EOFError, OSError):
            self.process.join(5)
            error = f"the compiling process ended with {self.process.exitcode}"
        self.end(kill=True)
        return Code(error=error)

    def end(self, kill: bool = False) -> None:
        """End the process."""
        if self.process is not None:
            if kill:
                self.process.kill()
            else:
                self.connection.send(None)
            self.process.join()
            self.connection.close()
            self.process = None


def compile_all(
    work: Callable[[Any], Code],
    cases: Iterable[Any],
    *,
    kin: Callable[[Any], Any] = lambda case: case,
    processes: int | None = None,
    seconds: float = SECONDS,
) -> dict[Any, Code]:
    """The code of many cases, compiled by as many processes as there are cores.

    Parameters
    ----------
    work : callable
        A function of a module, which makes the code of one case.
    cases : iterable
        Hashable; they go to the processes as pickles.
    kin : callable
        What is the same for cases that have most of their code in common: one process compiles
        them one after the other, since the compiler keeps what it finds out about a function.
    processes : int, optional
    seconds : float
        That one case may take.
    """
    families: dict[Any, list[Any]] = {}
    for case in cases:
        families.setdefault(kin(case), []).append(case)
    left, codes = list(families.values())[::-1], {}
    lock = threading.Lock()

    def compile_some() -> None:
        compiler = Compiler(work)
        while True:
            with lock:
                if not left:
                    break
                family = left.pop()
            for case in family:
                codes[case] = compiler.compile(case, seconds)
        compiler.end()

    number = processes or len(os.sched_getaffinity(0))
    threads = [threading.Thread(target=compile_some) for _ in range(min(number, len(left)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes
