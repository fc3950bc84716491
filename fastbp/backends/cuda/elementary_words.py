"""The meaning on the device of the functions that laws may call, for `compiler`.

libdevice has them but for sine and cosine, whose reduction of large arguments needs memory of the
thread's own and arithmetic of float64 there.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from fastbp import elementary
from fastbp.backends.cuda.compiler import (
    FLOAT,
    NUMBER,
    convert,
    emit_as_first,
    extending,
    functions,
    mathematics,
    real,
    word,
)
from fastbp.backends.cuda.elementary import make_sine

__all__: list[str] = []

overload = functools.partial(extending.overload, typing_registry=extending.typing_registry)

for _name in ("exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt"):
    word(getattr(elementary, _name), real, FLOAT)(emit_as_first(getattr(mathematics, _name)))
word(elementary.multiply_add, real, FLOAT, NUMBER, NUMBER)(emit_as_first(mathematics.fma))


@word(elementary.constant, lambda value, like: real(like), NUMBER, FLOAT)
def constant(builder: Any, kinds: Any, value: Any, like: Any) -> Any:
    return convert(value, builder.get_storage_type(kinds[1]), signed=True)


@functools.cache
def sine(kind: Any, is_cosine: bool) -> Any:
    return functions.rebound(make_sine(str(kind), kind, is_cosine))


@overload(elementary.sin)
def sin(x):
    return sine(x, False) if isinstance(x, FLOAT) else None


@overload(elementary.cos)
def cos(x):
    return sine(x, True) if isinstance(x, FLOAT) else None


# Overloads are written without early returns, which the compiler's optimizer does not always
# come to an end with in functions of this kind.


@overload(elementary.power)
def power(x, y):
    return lambda x, y: math.pow(x, y)


@overload(elementary.sigmoid)
def sigmoid(x):
    kind = x

    def implementation(x):
        decayed = math.exp(-abs(x))
        share = kind(1.0) / (kind(1.0) + decayed)
        return share if x >= kind(0.0) else decayed * share

    return implementation


@overload(elementary.sign)
def sign(x):
    kind = x

    def implementation(x):
        below = kind(-1.0) if x < kind(0.0) else x
        return kind(1.0) if x > kind(0.0) else below

    return implementation
