"""The two backends are twins: rooms, kernels and formulas of one stand in the other under one name."""

import importlib
import inspect
from pathlib import Path

import pytest

import fastbp
from fastbp.backends.contract import KERNELS
from fastbp.backends.cpu.compiler import FACTORIES

BACKENDS = Path(fastbp.__file__).parent / "backends"
ROOMS = (
    "buffers compiler constraint dense driver engine gradient intrinsics job loss machine_code "
    "masks normalization processor product reductions residual rows state tuning update"
).split()
WITH_KERNELS = ("constraint dense gradient loss masks normalization residual rows update").split()

# What stands in one backend alone. The gradients of a GPU have copies, which blocks sum at the same
# time, so that making them whole is a kernel and dense_step cannot be one; on the CPU few threads
# keep a tile in the cache from its gradient to its update. Lanes are for batches of the CPU's
# vectors.
CPU_ALONE = {"dense_step", *(name for name in KERNELS if name.endswith("_in_lanes"))}
CUDA_ALONE = {"finish_gradient"}


def room(backend, name):
    return importlib.import_module(f"fastbp.backends.{backend}.{name}")


def factories(backend):
    """(room, kernel) of every factory that the rooms with kernels offer."""
    return {
        (name, kernel): getattr(room(backend, name), kernel)
        for name in WITH_KERNELS
        for kernel in room(backend, name).__all__
    }


CPU, CUDA = factories("cpu"), factories("cuda")
SHARED = sorted(set(CPU) & set(CUDA))
shared = pytest.mark.parametrize("kernel", SHARED, ids=".".join)


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_have_the_same_names(name):
    for backend in ("cpu", "cuda"):
        assert (BACKENDS / backend / f"{name}.py").is_file(), f"{backend} has no {name}.py"


def test_kernels_stand_in_rooms_of_the_same_name():
    apart = {kernel for _, kernel in set(CPU) ^ set(CUDA)}
    assert apart <= CPU_ALONE | CUDA_ALONE
    assert {kernel for _, kernel in CUDA} == set(KERNELS) - CPU_ALONE | CUDA_ALONE
    assert {kernel for _, kernel in CPU} | CPU_ALONE == set(FACTORIES)
    for (_, kernel), factory in (*CPU.items(), *CUDA.items()):
        assert factory.__name__ == kernel


@shared
def test_factories_take_the_same_parameters_in_the_same_order(kernel):
    """A GPU has more of them: number types, tiles, where rows are, how products are rounded."""
    cpu, cuda = (list(inspect.signature(each[kernel]).parameters) for each in (CPU, CUDA))
    assert [name for name in cuda if name in cpu] == cpu
    assert set(cuda) - set(cpu) <= {"integer", "wide", "shape", "near", "precision"}


def formula(factory):
    """The first four words of its docstring, which say what is computed, or begin to."""
    return factory.__doc__.split()[:4]


@shared
def test_docstrings_begin_with_the_same_formula(kernel):
    assert formula(CPU[kernel]) == formula(CUDA[kernel])


@pytest.mark.parametrize("kernel", sorted(CUDA), ids=".".join)
def test_kernels_have_the_name_of_their_factory(kernel):
    """In both backends the function that runs is named as the contract names it."""
    for backend in (CPU, CUDA):
        if kernel in backend:
            source = inspect.getsource(backend[kernel])
            assert f"    def {kernel[1]}(arguments, first" in source
            assert source.rstrip().endswith(f"return {kernel[1]}")
