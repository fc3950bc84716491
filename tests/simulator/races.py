"""Finding data races: accesses to one place that no barrier puts in an order."""

from __future__ import annotations

from typing import Any

__all__ = ["GRANULE", "SEVERAL", "THREAD_BITS", "AccessLog"]

GRANULE = 4  # bytes; no kind is narrower
THREAD_BITS = 11
SEVERAL = (1 << THREAD_BITS) - 1  # in place of a thread, which is below 1024
BLOCK_BITS = 32
SEVERAL_BLOCKS = (1 << BLOCK_BITS) - 1


class AccessLog:
    """Who accessed each granule of an allocation last.

    An *interval* is what one block does between two barriers; each has a number, and intervals
    since the begin of the launch, or since the last barrier of the grid, are from
    ``machine.first_interval`` on. A *stamp* is an interval and a thread in one integer. Two
    accesses are in no order if they are of different threads in one interval, or of different
    blocks since ``machine.first_interval``. Nothing but a barrier makes an order: threads of a
    warp get none from being in one warp, nor from a shuffle.
    """

    def __init__(self, machine: Any, region: Any) -> None:
        count = -(-region.nbytes // GRANULE)
        self.machine = machine
        self.region = region
        self.writers = [-1] * count  # stamps
        self.readers = [-1] * count  # stamps, with SEVERAL for more than one thread
        # The blocks that read since the last barrier of the grid, with that barrier's number.
        self.reading_blocks = [-1] * count if region.is_global else None

    def read(self, granule: int, stamp: int) -> None:
        """Note a read, or raise."""
        writer = self.writers[granule]
        if writer != stamp and writer >= 0 and self.unordered(writer, stamp):
            self.report(granule, "reads", "wrote", writer)
        reader = self.readers[granule]
        if reader != stamp:
            same = reader >> THREAD_BITS == stamp >> THREAD_BITS
            self.readers[granule] = stamp | SEVERAL if same else stamp
        if self.reading_blocks is not None:
            block = self.machine.block_stamp
            known = self.reading_blocks[granule]
            if known != block:
                same = known >> BLOCK_BITS == block >> BLOCK_BITS
                self.reading_blocks[granule] = block | SEVERAL_BLOCKS if same else block

    def write(self, granule: int, stamp: int, same_value: bool) -> None:
        """Note a write, or raise. `same_value`: a race with a writer is to be overlooked."""
        writer = self.writers[granule]
        if writer not in (stamp, -1) and not same_value and self.unordered(writer, stamp):
            self.report(granule, "writes", "wrote", writer)
        reader = self.readers[granule]
        if reader != stamp and reader >> THREAD_BITS == stamp >> THREAD_BITS:
            self.report(granule, "writes", "read", reader)
        if self.reading_blocks is not None:
            block = self.machine.block_stamp
            known = self.reading_blocks[granule]
            if known != block and known >> BLOCK_BITS == block >> BLOCK_BITS:
                number = known & SEVERAL_BLOCKS
                who = "several blocks" if number == SEVERAL_BLOCKS else f"block {number}"
                self.raise_race(granule, "writes", "read", who)
        self.writers[granule] = stamp

    def unordered(self, earlier: int, stamp: int) -> bool:
        """Whether no barrier lies between an access with another stamp and this one."""
        interval = earlier >> THREAD_BITS
        machine = self.machine
        if interval < machine.first_interval:
            return False
        block: int = machine.block_of_interval[interval]
        return interval == stamp >> THREAD_BITS or block != machine.block()

    def report(self, granule: int, does: str, did: str, earlier: int) -> None:
        block = self.machine.block_of_interval[earlier >> THREAD_BITS]
        thread = earlier & SEVERAL
        who = "several threads" if thread == SEVERAL else f"thread {thread}"
        self.raise_race(granule, does, did, f"block {block}, {who}")

    def raise_race(self, granule: int, does: str, did: str, who: str) -> None:
        place = self.region.describe(self.region.address + granule * GRANULE)
        raise self.machine.fault(f"race: {does} what {who} {did} with no barrier between ({place})")
