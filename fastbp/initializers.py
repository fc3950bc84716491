"""Initial values of weights, by name. A new one is one function with the decorator.

Values are drawn in float64 and then rounded, so that a float32 and a float64 network of one seed
start from the same point.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastbp.turns import RenewedLock

__all__ = ["INITIALIZERS", "initial_values", "keyed_generator", "resolve_initializer"]

Values = NDArray[np.float64]
BLAS = RenewedLock()  # how many threads it has
INITIALIZERS: dict[str, Callable[[np.random.Generator, int, int], Values]] = {}


def initializer(
    function: Callable[[np.random.Generator, int, int], Values],
) -> Callable[[np.random.Generator, int, int], Values]:
    """Enter a function ``(generator, inputs, units) -> (inputs, units)`` under its own name."""
    INITIALIZERS[function.__name__] = function
    return function


def normal(generator: np.random.Generator, inputs: int, units: int, variance: float) -> Values:
    return generator.standard_normal((inputs, units)) * math.sqrt(variance)


def uniform(generator: np.random.Generator, inputs: int, units: int, variance: float) -> Values:
    limit = math.sqrt(3.0 * variance)  # uniform on [-limit, limit] has the variance limit**2 / 3
    return generator.uniform(-limit, limit, (inputs, units))


@initializer
def he_normal(generator: np.random.Generator, inputs: int, units: int) -> Values:
    """Normal with variance 2 / inputs (He, Zhang, Ren and Sun 2015)."""
    return normal(generator, inputs, units, 2.0 / inputs)


@initializer
def he_uniform(generator: np.random.Generator, inputs: int, units: int) -> Values:
    """Uniform with variance 2 / inputs (He, Zhang, Ren and Sun 2015)."""
    return uniform(generator, inputs, units, 2.0 / inputs)


@initializer
def glorot_normal(generator: np.random.Generator, inputs: int, units: int) -> Values:
    """Normal with variance 2 / (inputs + units) (Glorot and Bengio 2010)."""
    return normal(generator, inputs, units, 2.0 / (inputs + units))


@initializer
def glorot_uniform(generator: np.random.Generator, inputs: int, units: int) -> Values:
    """Uniform with variance 2 / (inputs + units) (Glorot and Bengio 2010)."""
    return uniform(generator, inputs, units, 2.0 / (inputs + units))


@initializer
def lecun_normal(generator: np.random.Generator, inputs: int, units: int) -> Values:
    """Normal with variance 1 / inputs (LeCun, Bottou, Orr and Mueller 1998)."""
    return normal(generator, inputs, units, 1.0 / inputs)


@initializer
def lecun_uniform(generator: np.random.Generator, inputs: int, units: int) -> Values:
    """Uniform with variance 1 / inputs (LeCun, Bottou, Orr and Mueller 1998)."""
    return uniform(generator, inputs, units, 1.0 / inputs)


@initializer
def orthogonal(generator: np.random.Generator, inputs: int, units: int) -> Values:
    """Orthonormal rows or columns, whichever are fewer (Saxe, McClelland and Ganguli 2014)."""
    from threadpoolctl import threadpool_limits

    tall = generator.standard_normal((max(inputs, units), min(inputs, units)))
    # The bits of LAPACK depend on its number of threads, which the whole process has in common:
    # another thread that put it back would change it here.
    with BLAS.lock, threadpool_limits(1, "blas"):
        q, r = np.linalg.qr(tall)
    q *= np.sign(np.diag(r))  # makes the draw uniform over the orthogonal matrices
    return q if inputs >= units else np.ascontiguousarray(q.T)


@initializer
def zeros(generator: np.random.Generator, inputs: int, units: int) -> Values:
    """All zero."""
    return np.zeros((inputs, units))


@initializer
def ones(generator: np.random.Generator, inputs: int, units: int) -> Values:
    """All one."""
    return np.ones((inputs, units))


def keyed_generator(seed: int, stream: int) -> np.random.Generator:
    """NumPy's Philox generator for a seed and a stream, both of 64 bits."""
    key = np.array([seed % 2**64, stream], dtype=np.uint64)  # a list would go through float64
    return np.random.Generator(np.random.Philox(key=key))


def resolve_initializer(name: str, argument: str = "initializer") -> str:
    """The name itself, if it is a known one.

    Raises
    ------
    ValueError
        For an unknown name; the valid ones are listed.
    """
    if not isinstance(name, str) or name not in INITIALIZERS:
        raise ValueError(
            f"{argument}: expected one of {', '.join(sorted(INITIALIZERS))}; got {name!r}"
        )
    return name


def initial_values(name: str, seed: int, tensor: int, inputs: int, units: int) -> Values:
    """Initial values of one tensor, independent of every other tensor's.

    Parameters
    ----------
    name : str
        One of `INITIALIZERS`.
    seed, tensor : int
        Together they key the generator (NumPy's Philox), so adding a layer changes no other.
    inputs, units : int
        Fan-in and fan-out, the shape of the result.
    """
    generator = keyed_generator(seed, tensor)
    return INITIALIZERS[name](generator, inputs, units)
