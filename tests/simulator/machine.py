"""The meaning of the words of `language` in the simulator, and launches."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import greenlet
import numpy as np

from fastbp.backends.cuda import language

from .blocks import WARP, Block, Wait, describe_site, describe_waits
from .memory import AddressSpace, Memory, Region, SimulationError
from .own_words import OwnWords
from .pointers import CheckedPointer, Pointer, StrayPointer
from .races import BLOCK_BITS
from .tensor_cores import fragments

__all__ = ["MOST_SHARED_BYTES", "MOST_THREADS", "Machine"]

MOST_THREADS = 1024
MOST_SHARED_BYTES = 232448
ORDERS = ("forward", "reversed", "random")
OWN_FILES = (__file__.rpartition("/")[0] + "/", language.__file__)


class Machine(OwnWords):
    """Runs kernels thread by thread, each until it waits or returns.

    Parameters
    ----------
    memory : Memory
        The global memory; a new one by default.
    order, block_order : {"forward", "reversed", "random"}
        In which order threads, and blocks, take their turns; blocks as threads by default.
    seed : int
        Of the random orders, which differ from turn to turn.
    races : bool
        Raise where two threads access a place, one of them writing, with no barrier between.
    same_value_writes : bool
        Let threads write the bits that a place already has, whoever wrote them.
    uninitialised : {"allow", "raise"}
        What a read of memory that was never written does: give 0xFF bytes, or raise.
    shared_limit : int
        The most shared memory that a block may ask for.
    """

    def __init__(
        self,
        memory: Memory | None = None,
        *,
        order: str = "forward",
        block_order: str | None = None,
        seed: int = 0,
        races: bool = False,
        same_value_writes: bool = False,
        uninitialised: str = "allow",
        shared_limit: int = MOST_SHARED_BYTES,
    ) -> None:
        self.memory = Memory() if memory is None else memory
        self.order = order
        self.block_order = block_order or order
        if self.order not in ORDERS or self.block_order not in ORDERS:
            raise ValueError(f"an order is one of {ORDERS}")
        if uninitialised not in ("allow", "raise"):
            raise ValueError('uninitialised is "allow" or "raise"')
        self.random = random.Random(seed)
        self.races = races
        self.same_value_writes = same_value_writes
        self.raise_uninitialised = uninitialised == "raise"
        self.shared_limit = shared_limit
        checked = races or self.raise_uninitialised
        self.pointer_type = CheckedPointer if checked else Pointer
        # Shared memory lies nowhere near global memory.
        self.shared_space = AddressSpace(1 << 60)
        # Who runs.
        self.running: Block | None = None
        self.block_number = self.thread_number = self.stamp = self.block_stamp = 0
        # The launch.
        self.block_count = self.thread_count = 0
        self.cooperative = False
        self.counter: int | None = None  # address of what counts the meetings of the blocks
        self.function: Callable[..., None] | None = None
        self.arguments: tuple[Any, ...] = ()
        self.hub: Any = None  # the greenlet that hands out the turns
        self.idle: list[Any] = []  # greenlets whose threads have returned
        self.everyone: list[Any] = []
        self.pointers: dict[Any, Any] = {}
        # Intervals and the last barrier of the grid, as races.AccessLog has it.
        self.next_interval = self.first_interval = self.grid_barriers = 0
        self.block_of_interval: dict[int, int] = {}

    def launch(
        self,
        function: Callable[..., None],
        grid: int,
        block: int,
        shared_bytes: int,
        arguments: tuple[Any, ...],
        cooperative: bool = False,
    ) -> None:
        """Run ``function(*arguments)`` in all threads of `grid` blocks of `block` threads."""
        if self.hub is not None:
            raise SimulationError("a launch from within a kernel")
        if grid < 1 or not 1 <= block <= MOST_THREADS:
            raise SimulationError(f"cannot launch {grid} blocks of {block} threads")
        if not 0 <= shared_bytes <= self.shared_limit:
            raise SimulationError(
                f"{shared_bytes} bytes of shared memory wanted, {self.shared_limit} are the most"
            )
        self.function, self.arguments, self.cooperative = function, tuple(arguments), cooperative
        self.block_count, self.thread_count = grid, block
        self.counter = None
        self.pointers = {}
        self.pass_grid_barrier()
        self.hub = greenlet.getcurrent()
        former, language.machine = language.machine, self
        try:
            numbers = self.arrange(list(range(grid)), self.block_order)
            if cooperative:
                self.run_together([Block(self, n, block, shared_bytes) for n in numbers])
            else:
                for number in numbers:
                    self.run_alone(Block(self, number, block, shared_bytes))
        finally:
            language.machine = former
            for worker in self.everyone:
                worker.throw(greenlet.GreenletExit)
            self.idle, self.everyone = [], []
            self.hub = self.running = self.function = None
            self.arguments = ()

    def run_alone(self, block: Block) -> None:
        """Run a block of an ordinary launch to its end."""
        while block.ready:
            block.advance()

    def run_together(self, blocks: list[Block]) -> None:
        """Run the blocks of a cooperative launch, each from barrier to barrier in turn."""
        waits: dict[int, Wait] = {}
        while True:
            ready = [block for block in blocks if block.ready]
            if ready:
                for block in self.arrange(ready, self.block_order):
                    waits[block.number] = block.advance()
                continue
            first = waits[0]
            if any(wait != first for wait in waits.values()):
                everyone = describe_waits("blocks", sorted(waits.items()))
                raise SimulationError(f"divergent grid barrier, a deadlock: {everyone}")
            if first[0] != "grid_barrier":
                return
            self.pass_grid_barrier()
            for block in blocks:
                block.release()

    # What blocks ask of the machine.

    def arrange(self, numbers: list[Any], order: str) -> list[Any]:
        """Numbers of threads or blocks in the order of their turns."""
        if order == "reversed":
            return numbers[::-1]
        if order == "random":
            draw = self.random.random  # sorting by draws takes a third of the time of a shuffle
            draws = [draw() for _ in numbers]
            return [numbers[i] for i in sorted(range(len(draws)), key=draws.__getitem__)]
        return numbers

    def enter(self, block: Block) -> None:
        """Let a block be the one that runs."""
        self.running = block
        self.block_number = block.number
        self.block_stamp = self.grid_barriers << BLOCK_BITS | block.number

    def new_interval(self, block: int) -> int:
        """The number of what a block does next, after a barrier."""
        interval = self.next_interval
        self.next_interval += 1
        self.block_of_interval[interval] = block
        return interval

    def pass_grid_barrier(self) -> None:
        """Put all that happened before in order with all that follows."""
        self.first_interval = self.next_interval
        self.grid_barriers += 1
        self.block_of_interval.clear()

    def worker(self) -> Any:
        """A greenlet for a thread to run in."""
        if self.idle:
            return self.idle.pop()
        worker = greenlet.greenlet(self.work, self.hub)
        self.everyone.append(worker)
        return worker

    def work(self, _: Any) -> None:
        """Run one thread after another: the body of a greenlet."""
        with np.errstate(all="ignore"):  # as a GPU does
            while True:
                try:
                    self.function(*self.arguments)
                except SimulationError:
                    raise
                except Exception as error:
                    raise self.fault(f"{type(error).__name__}: {error}", error) from error
                self.hub.switch(None)

    def fault(self, message: str, error: Exception | None = None) -> SimulationError:
        """An exception that says which thread failed, and where."""
        if error is None:
            site = self.site(1)
        else:
            frames = []
            traceback = error.__traceback__
            while traceback is not None:
                frames.insert(0, (traceback.tb_frame.f_code, traceback.tb_lasti))
                traceback = traceback.tb_next
            site = kernel_calls(frames)
        where = f", {describe_site(site)}" if site else ""
        return SimulationError(
            f"block {self.block_number}, thread {self.thread_number}{where}: {message}"
        )

    def site(self, depth: int) -> tuple[Any, ...]:
        """The place in the kernel of the caller `depth` frames up, with the calls that led there."""
        frame = sys._getframe(depth + 1)
        calls: list[Any] = []
        while frame is not None and frame.f_code is not WORK:
            calls.append((frame.f_code, frame.f_lasti))
            frame = frame.f_back
        return kernel_calls(calls)

    # The words.

    def thread(self) -> int:
        return self.thread_number

    def threads(self) -> int:
        return self.thread_count

    def block(self) -> int:
        return self.block_number

    def blocks(self) -> int:
        return self.block_count

    def barrier(self) -> None:
        self.hub.switch(("barrier", call_site()))

    def grid_barrier(self, counter: Any) -> None:
        if not self.cooperative:
            raise self.fault("grid_barrier in a launch that is not cooperative")
        number = counter[0]
        if not (counter.region.is_global and number == 0):
            raise self.fault(
                f"grid_barrier counts in {counter.region.name}, where there is {number}"
            )
        if self.counter is None:
            self.counter = counter.address
        if counter.address != self.counter:
            raise self.fault("grid_barrier with a counter of its own")
        self.hub.switch(("grid_barrier", call_site()))

    def shuffle_xor(self, value: Any, mask: int) -> Any:
        if not 0 <= mask < WARP:
            raise self.fault(f"shuffle_xor with a mask of {mask}")
        self.require_whole_warp("shuffle_xor")
        return self.hub.switch(("shuffle_xor", call_site(), value, int(mask)))

    def require_whole_warp(self, word: str) -> None:
        """Refuse a word in which all threads of a warp take part, where one has fewer."""
        if self.thread_count - self.thread_number // WARP * WARP < WARP:
            raise self.fault(f"{word} in a warp of less than {WARP} threads")

    def as_pointer(self, address: int, kind: Any) -> Any:
        pointer = self.pointers.get((address, kind))
        if pointer is None:
            pointer = self.new_pointer(int(address), kind)
        return pointer

    def new_pointer(self, address: int, kind: Any) -> Any:
        assert self.running is not None
        shared = self.running.shared
        size = np.dtype(kind).itemsize
        if address % size:
            raise self.fault(
                f"misaligned pointer: {address:#x} is no multiple of {size} bytes of {kind.__name__}"
            )
        if shared.address <= address <= shared.end:
            return self.pointer_to(shared, address, kind)
        region = self.memory.find(address)
        if region is None:
            return StrayPointer(self, address, kind)
        pointer = self.pointers[address, kind] = self.pointer_to(region, address, kind)
        return pointer

    def pointer_to(self, region: Region, address: int, kind: Any) -> Pointer:
        start = (address - region.view(kind)[0]) // np.dtype(kind).itemsize
        return self.pointer_type(self, region, kind, start)

    def shared_memory(self, kind: Any) -> Any:
        block = self.running
        assert block is not None
        if kind not in block.pointers:
            block.pointers[kind] = self.pointer_to(block.shared, block.shared.address, kind)
        return block.pointers[kind]

    def mma_tf32(self, *operands: Any) -> None:
        self.hub.switch(("mma_tf32", call_site(), *fragments(self, "mma_tf32", *operands)))

    def mma_bf16(self, *operands: Any) -> None:
        self.hub.switch(("mma_bf16", call_site(), *fragments(self, "mma_bf16", *operands)))


WORK = Machine.work.__code__
WORD_FRAMES = 2  # those of the word in `language` and of its method here


def call_site() -> tuple[Any, ...]:
    """Where the kernel called the word that calls this, as codes and instructions in turn.

    For comparison of places: the calls that led there count as well.
    """
    frame = sys._getframe(WORD_FRAMES + 1)
    calls: list[Any] = []
    while frame is not None and frame.f_code is not WORK:
        calls += frame.f_code, frame.f_lasti
        frame = frame.f_back
    return tuple(calls)


def kernel_calls(calls: list[tuple[Any, int]]) -> tuple[Any, ...]:
    """The calls, innermost first, without those within the simulator and `language`."""
    while calls and calls[0][0].co_filename.startswith(OWN_FILES):
        calls = calls[1:]
    return tuple(part for call in calls for part in call if call[0] is not WORK)
