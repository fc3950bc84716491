"""What the figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.peak import vector_lanes
from benchmarks.processes import available_cores

__all__ = ["Company", "describe_machine", "machine_line"]


def processor_name() -> str:
    """The model of the CPU, as the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe_machine(versions: dict[str, str]) -> dict[str, Any]:
    """Processor, cores, vectors, system, versions and date as plain data."""
    return {
        "processor": processor_name(),
        "cores": len(available_cores()),
        "float32_lanes": vector_lanes("float32"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": dict(sorted(versions.items())),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def machine_line(machine: dict[str, Any]) -> str:
    """The description as one sentence."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, vectors of "
        f"{machine['float32_lanes']} float32, {machine['system']}, Python {machine['python']}, "
        f"{versions}; {machine['date']}."
    )


class Company:
    """How busy other programs, and other guests of the host, keep the cores for some time.

    A benchmark on a machine that does other work says little: two threads that wait for one another
    suffer far more than one. So the report says how quiet it was. Only Linux tells.

    Parameters
    ----------
    processes : iterable of int
        Those that belong to the benchmark, besides this one.
    """

    def __init__(self, processes: Iterable[int]) -> None:
        self.processes = [os.getpid(), *processes]
        self.started = time.monotonic()
        self.before = self.others()

    def others(self) -> float | None:
        """Seconds that the cores have worked for others since the machine was started."""
        try:
            ticks = os.sysconf("SC_CLK_TCK")
            totals = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
            user, nice, system, _, _, interrupts, soft, steal = map(int, totals)
            busy = user + nice + system + interrupts + soft + steal
            for process in self.processes:
                # The name, in parentheses, may hold blanks; the 12th to the 15th after it are the
                # times of the process and of its children that have ended.
                text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
                fields = text.rpartition(")")[2].split()
                busy -= sum(map(int, fields[11:15]))
        except (OSError, ValueError, AttributeError, IndexError):
            return None
        return busy / ticks

    def cores(self) -> float | None:
        """Cores that others kept busy, on average, since this was made; None where unknown."""
        after, seconds = self.others(), time.monotonic() - self.started
        if after is None or self.before is None or seconds <= 0:
            return None
        return max(0.0, (after - self.before) / seconds)
