"""The same bits for any number of threads, any run, and any width of the vectors."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.processes import ROOT, source_environment
from benchmarks.reliability.subjects import Outcome, Request, find_tests

__all__ = ["check", "hashes_of"]

RUNS = 20
THREADS = (1, 2, 3, 4)
DTYPES = ("float32", "float64")
MOST_THREADS = 5
PATIENCE = 600.0

METHOD = f"""\
Two trainings of four epochs (clipped, penalized, weighted, standardised, validated), one with units
in the lanes of vectors and one with rows, then predictions and Jacobians; parameters, histories and
all outputs go into one SHA-256 (`tests/test_bits.py`). It is repeated {RUNS} times with each of
{", ".join(map(str, THREADS))} threads, more than there are cores here, in a process for each kind
of vectors: the register tiles of AVX-512, AVX2 and NEON,
and compiled for a processor of 2013 with AVX2. With several threads all steps are forced to run in
parallel. One hash is expected for each precision."""


def hashes_of(runs: int) -> dict[str, dict[str, int]]:
    """How often each hash comes out, by precision and threads, in this process."""
    find_tests()
    import test_bits

    found: dict[str, dict[str, int]] = {}
    for dtype in DTYPES:
        for threads in THREADS:
            counts: dict[str, int] = {}
            for _ in range(runs):
                digest = test_bits.hash_of_a_training(dtype, threads, threads > 1)
                counts[digest] = counts.get(digest, 0) + 1
            found[f"{dtype}, {threads}"] = counts
    return found


def widths() -> dict[str, dict[str, str]]:
    """The kinds of vectors, with the variables that force each."""
    find_tests()
    import test_bits

    from fastbp.backends.cpu import tuning

    shapes = {f"{name} tiles": {"FASTBP_TILE_SHAPE": name} for name in tuning.TILE_SHAPES}
    processor = {"AVX2 processor": test_bits.AVX2} if test_bits.is_x86_with_fma else {}
    return shapes | processor


def in_a_process(runs: int, settings: dict[str, str]) -> dict[str, dict[str, int]]:
    """The same in a process with some variables."""
    environment = {**source_environment(), "NUMBA_NUM_THREADS": str(MOST_THREADS), **settings}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.reliability.bits", str(runs)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{settings}: {done.stderr.strip()[-500:]}")
    found: dict[str, dict[str, int]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def check(request: Request) -> Outcome:
    """20 runs of each configuration, or as many as the scale says."""
    runs = request.count(RUNS)
    kinds = widths()
    with ThreadPoolExecutor(request.workers) as pool:
        started = {name: pool.submit(in_a_process, runs, kinds[name]) for name in kinds}
        found = {name: future.result() for name, future in started.items()}
    hashes: dict[str, set[str]] = {dtype: set() for dtype in DTYPES}
    total = 0
    for by_threads in found.values():
        for configuration, counts in by_threads.items():
            hashes[configuration.split(",")[0]] |= set(counts)
            total += sum(counts.values())
    broken = []
    for dtype, different in hashes.items():
        if len(different) != 1:
            broken.append(f"{dtype}: {len(different)} hashes, {sorted(different)[:4]}")
    # What was hashed belongs to a version of fastbp and of the C library: a short form is enough.
    short = {dtype: sorted(each[:16] for each in different) for dtype, different in hashes.items()}
    lines = [f"- {dtype}: {', '.join(each)}" for dtype, each in short.items()]
    lines.append(f"- vectors: {', '.join(kinds)}; threads: {', '.join(map(str, THREADS))}")
    configurations = len(kinds) * len(THREADS) * len(DTYPES)
    figures: dict[str, Any] = {
        "runs": runs,
        "configurations": configurations,
        "hashes": short,
        "vectors": list(kinds),
        "threads": list(THREADS),
    }
    return Outcome(
        promise="The same seed and data give the same bits, however many threads there are.",
        cases=total,
        unit="trainings",
        result=f"{sum(map(len, hashes.values()))} hashes for {len(DTYPES)} precisions, over "
        f"{configurations} configurations",
        method=METHOD,
        lines=lines,
        figures=figures,
        broken=broken,
    )


if __name__ == "__main__":
    print(json.dumps(hashes_of(int(sys.argv[1]))))
