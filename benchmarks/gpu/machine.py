"""What the figures were measured on: the GPU, its driver, versions, the commit."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.processes import ROOT

__all__ = ["describe_gpu_machine", "gpu_line"]

PACKAGES = (
    "fastbp numba numpy numba-cuda-mlir cuda-bindings cuda-toolkit nvidia-cuda-nvrtc nvidia-nvvm "
    "nvidia-nvjitlink torch triton jax jaxlib"
).split()
QUERIES = ("driver_version", "clocks.max.sm", "clocks.max.memory", "power.limit")


def output_of(*command: str) -> str:
    """What a program prints; nothing where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def versions() -> dict[str, str]:
    """Of the packages that have a part in the figures."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the sources, and whether files differ from it."""
    number = output_of("git", "rev-parse", "--short=12", "HEAD")
    if not number:
        return "unknown"
    changed = output_of("git", "status", "--porcelain", "--untracked-files=no")
    return f"{number}, with changes" if changed else number


def describe_gpu_machine(gpu: str) -> dict[str, Any]:
    """Plain data about the machine; `gpu` is what `fastbp.devices` says of it."""
    query = ["nvidia-smi", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader", "--id=0"]
    told = [part.strip() for part in output_of(*query).split(",")]
    about = dict(zip(QUERIES, told, strict=True)) if len(told) == len(QUERIES) else {}
    return describe_machine(versions()) | {"gpu": gpu, "nvidia_smi": about, "commit": commit()}


def gpu_line(machine: dict[str, Any]) -> str:
    """The description as a sentence or two."""
    about = machine["nvidia_smi"]
    parts = [machine["gpu"]]
    if about:
        parts.append(f"NVIDIA driver {about['driver_version']}")
        parts.append(f"clocks up to {about['clocks.max.sm']} and {about['clocks.max.memory']}")
        parts.append(f"power limit {about['power.limit']}")
    parts.append(f"{machine['processor']}, {machine['cores']} cores")
    parts.append(f"{machine['system']}, Python {machine['python']}")
    packages = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return f"{'; '.join(parts)}; {packages}; commit {machine['commit']}; {machine['date']}."
