"""What the figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.peak import vector_lanes
from benchmarks.processes import available_cores

__all__ = ["describe_machine", "machine_line"]


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
