"""Plain Python functions, with all the functions that they refer to, as functions of a compiler."""

from __future__ import annotations

import dis
import types
from collections.abc import Callable
from typing import Any

from fastbp import elementary
from fastbp.backends.cuda import language

__all__ = ["Functions", "plain"]

# What a compiler knows itself.
WORDS = {
    getattr(module, name)
    for module, names in ((language, language.__all__), (elementary, elementary.__all__))
    for name in names
}


def plain(value: Any) -> Any:
    """A value; of a function that a user jitted for the CPU, what it was made of."""
    is_jitted = type(value).__module__.startswith("numba.")
    return getattr(value, "py_func", value) if is_jitted else value


def raises(function: Any) -> bool:
    """Whether a function has a `raise` or an `assert`, which the compiler would drop silently."""
    return any(each.opname == "RAISE_VARARGS" for each in dis.get_instructions(function))


class Functions:
    """The functions that one compiler has been given.

    Functions of the same code that refer to the same values become one, so that what kernels have
    in common is compiled once.

    Parameters
    ----------
    make : callable
        Makes the compiler's function of a Python function that refers to nothing but values that
        the compiler knows, and to what it has made.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make
        self.made: dict[tuple[Any, ...], Any] = {}

    def compilable(self, value: Any) -> Any:
        """A value that a function refers to, in the form that its copy refers to.

        Raises
        ------
        TypeError
            For a function that may raise an exception.
        """
        value = plain(value)
        if not isinstance(value, types.FunctionType) or value in WORDS:
            return value
        if raises(value):
            raise TypeError(
                f"{value.__qualname__} may raise an exception, which no kernel can pass on"
            )
        function = self.rebound(value)
        key = identity(function)
        if key not in self.made:
            self.made[key] = self.make(function)
        return self.made[key]

    def rebound(self, function: Any) -> Any:
        """A copy of a function that refers to the compiler's functions."""
        function = plain(function)
        names = set(function.__code__.co_names)
        seen = {
            name: self.compilable(value) if name in names else value
            for name, value in function.__globals__.items()
        }
        cells = tuple(
            types.CellType(self.compilable(cell.cell_contents))
            for cell in function.__closure__ or ()
        )
        copy = types.FunctionType(
            function.__code__, seen, function.__name__, function.__defaults__, cells
        )
        copy.__module__ = function.__module__
        copy.__qualname__ = function.__qualname__
        return copy


def identity(function: Any) -> tuple[Any, ...]:
    """What two functions have in common that do the same."""
    return (
        function.__code__,
        known(function.__defaults__),
        tuple(known(cell.cell_contents) for cell in function.__closure__ or ()),
        tuple(known(function.__globals__.get(name)) for name in function.__code__.co_names),
    )


def known(value: Any) -> Any:
    """A value as part of a key: numbers as such, all else by which object it is."""
    if isinstance(value, tuple):
        return type(value), tuple(known(member) for member in value)
    if value is None or isinstance(value, bool | int | float | str):
        return type(value), repr(value)  # 0.0 and -0.0 are equal, and not the same
    return id(value)  # what is kept under the key refers to it, so that no other has the number
