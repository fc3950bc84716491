"""What becomes of the CUDA kernels in the compiler: ``python -m benchmarks.lab.cuda_kernels``.

Compiles what representative networks launch, every kernel by itself, and the products with every
tile that `fastbp.backends.cuda.tuning` chooses. Writes registers, shared memory and instructions
to tests/data/cuda_kernels.json, and as a table to docs/cuda-kernels.md. The tests compile the same
and compare. Needs no GPU; ``pip install '.[cuda-test]'``.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.lab.cuda_cases import CASES, CHIPS, DTYPES, Case
from benchmarks.lab.machine_code import (
    Code,
    compile_all,
    count,
    missing,
    read_code,
    resident_blocks,
)
from fastbp.backends.cuda.entries import Entry, build_kernel
from fastbp.backends.cuda.language import as_pointer
from fastbp.backends.cuda.machine_code import compile_entry
from fastbp.backends.cuda.tuning import BLOCKS_HELD, THREADS

__all__ = ["code_of_case", "codes_of_cases", "load_table", "render", "row_of"]

ROOT = Path(__file__).parents[2]
TABLE, PAGE = ROOT / "tests" / "data" / "cuda_kernels.json", ROOT / "docs" / "cuda-kernels.md"
# The versions that the table was made with: others may give out registers in another way.
PACKAGES = ("numba-cuda-mlir", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvcc")
COUNTED = ("FFMA", "DFMA", "HMMA", "LDG.E.128", "LDS.128", "STS.128", "BAR")


# Compilation, in processes of their own.


def without_phase(kernel: Any, integer: Any) -> Any:
    """A kernel that is launched by itself, all its numbers from memory."""

    def run(table, numbers, unused):
        arguments, given = as_pointer(table, integer), as_pointer(numbers, integer)
        part, place = (given[2], given[3]), (given[4], given[5], given[6], given[7])
        kernel(arguments, given[0], given[1], part, place)

    return run


def code_of_case(key: str) -> Code:
    """Compile one case, and read what came of it."""
    from fastbp.backends.cuda.compiler import compile_cubin, number_type

    case = CASES[key]
    if isinstance(case.what, Entry):
        cubin, _ = compile_entry(case.what, case.chip)
        return read_code(cubin)
    kinds = tuple(map(number_type, (case.dtype, "int64", "float64")))
    function = without_phase(build_kernel(case.what, case.dtype, kinds), kinds[1])
    cubin, _ = compile_cubin(function, 3, case.chip, THREADS, BLOCKS_HELD)
    return read_code(cubin)


def codes_of_cases(keys: Iterable[str]) -> dict[str, Code]:
    """Compile some cases; those that differ in the architecture alone one after the other."""
    return compile_all(code_of_case, keys, kin=lambda key: (CASES[key].name, CASES[key].dtype))


# The table.


def row_of(case: Case, code: Code) -> dict[str, int]:
    """A case's row."""
    shared = code.shared + case.shared
    row = {
        "registers": code.registers,
        "static": code.shared,
        "dynamic": case.shared,
        "blocks": resident_blocks(case.chip, THREADS, code.registers, shared),
        "instructions": sum(code.opcodes.values()),
    }
    for name in COUNTED:
        exact = name if "." in name else None
        row[name] = code.opcodes[name] if exact else count(code.opcodes, name)
    return row


def load_table() -> dict[str, Any]:
    """The table in the repository."""
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table


def versions() -> dict[str, str]:
    """Of what compiles."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def save_table(table: dict[str, Any]) -> None:
    """Write the table, a row a line."""
    rows = [f"{json.dumps(key)}: {json.dumps(row)}" for key, row in table["rows"].items()]
    text = f'{{"versions": {json.dumps(table["versions"])},\n"rows": {{\n'
    TABLE.write_text(text + ",\n".join(rows) + "\n}}\n")


INTRODUCTION = """# The CUDA kernels in machine code

`python -m benchmarks.lab.cuda_kernels` compiles them and writes this page from what NVIDIA's tools
read in the code (extra `cuda-test`); no GPU is needed, and nothing here is a measured time. The
tests compile the same and fail where a kernel needs more registers, or fewer of its blocks fit on a
multiprocessor, than `tests/data/cuda_kernels.json` says, where it has a stack, or where code of
float32 calculates in float64. The latter is said of all kernels but the sums over rows and tiles,
the squares of a gradient and the law of a step, which are float64 on purpose, and of what is
launched with them.

Registers are of a thread, of which a block has {threads}; shared memory is what a launch asks for,
in KiB; blocks are those that a multiprocessor holds at a time. The instructions counted stand in
the code so many times, whether in a loop or not.
"""


def render(table: dict[str, Any]) -> str:
    """The page."""
    lines = [INTRODUCTION.format(threads=THREADS)]
    made = ", ".join(f"{name} {version}" for name, version in table["versions"].items())
    lines.append(f"Compiled by {made}.\n")
    titles = ("registers", "shared", "blocks", "instructions", *COUNTED)
    for chip in CHIPS:
        for dtype in DTYPES:
            ending = f", {dtype}, {chip}"
            found = {k: row for k, row in table["rows"].items() if k.endswith(ending)}
            lines += [f"## {dtype} on {chip}\n", f"| kernel | {' | '.join(titles)} |"]
            lines.append("|---|" + "---:|" * len(titles))
            for key, row in found.items():
                kib = f"{row['dynamic'] / 1024:.1f}"
                cells = [row["registers"], kib, row["blocks"], row["instructions"]]
                cells += [row[name] for name in COUNTED]
                lines.append(f"| {key.removesuffix(ending)} | {' | '.join(map(str, cells))} |")
            lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Compile, and write the table."""
    if missing():
        sys.exit(missing())
    wanted = [key for key, case in CASES.items() if case.in_table]
    codes = codes_of_cases(wanted)
    failed = {key: code.error for key, code in codes.items() if code.error}
    for key, error in failed.items():
        print(f"{key}: {error}")
    if failed:
        sys.exit(1)
    table = {"versions": versions(), "rows": {k: row_of(CASES[k], codes[k]) for k in wanted}}
    save_table(table)
    PAGE.write_text(render(table))
    print(f"{len(wanted)} kernels; see {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
