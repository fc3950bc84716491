"""Named settings: one mechanism for activations, losses, optimizers, schedules, initializers."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
import re
from typing import Any, ClassVar, TypeVar

__all__ = ["Named", "finite", "is_own", "positive_integer", "snake_case"]

T = TypeVar("T", bound="Named")


def snake_case(name: str) -> str:
    """``LogCosh`` -> ``log_cosh``; acronyms stay together: ``RMSprop`` -> ``rmsprop``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def is_own(member: Any) -> bool:
    """Whether a class or a function is fastbp's and not a user's."""
    return str(member.__module__).partition(".")[0] == "fastbp"


class Named:
    """Base of the families of named settings.

    A direct subclass founds a family (``class Activation(Named)``) with a registry of its own;
    every class below it enters that registry under its ``name``, so a new member is one class and
    no further edit. Members are frozen dataclasses, so they compare by value and can be keys.
    """

    family: ClassVar[str] = ""
    name: ClassVar[str] = ""
    registry: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if Named in cls.__bases__:
            cls.registry = {}
            cls.family = snake_case(cls.__name__)
        else:
            if "name" not in cls.__dict__:
                cls.name = snake_case(cls.__name__)
            present = cls.registry.get(cls.name)
            if present is not None and is_own(present) and not is_own(cls):
                raise ValueError(f"{cls.family}: the name {cls.name!r} is taken by fastbp's own")
            cls.registry[cls.name] = cls

    @classmethod
    def names(cls) -> list[str]:
        """The registered names of the family, sorted."""
        return sorted(cls.registry)

    @classmethod
    def resolve(cls: type[T], value: Any, argument: str | None = None) -> T:
        """The settings object for a name, or the object itself.

        Raises
        ------
        ValueError
            For an unknown name; the valid ones are listed.
        TypeError
            For anything that is neither a name nor a member of the family.
        """
        argument = argument or cls.family
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            if value not in cls.registry:
                raise ValueError(
                    f"{argument}: expected one of {', '.join(cls.names())}; got {value!r}"
                )
            member: T = cls.registry[value]()
            return member
        raise TypeError(
            f"{argument}: expected a name or a fastbp {cls.family} object; "
            f"got {type(value).__name__}"
        )

    @property
    def settings(self) -> tuple[float, ...]:
        """The numbers that the laws receive, in the order of the fields."""
        if not dataclasses.is_dataclass(self):
            return ()
        return tuple(float(getattr(self, field.name)) for field in dataclasses.fields(self))

    def describe(self) -> dict[str, Any]:
        """Name and settings as plain data, for files and reports."""
        described: dict[str, Any] = {"name": self.name}
        if dataclasses.is_dataclass(self):
            described |= {
                field.name: getattr(self, field.name) for field in dataclasses.fields(self)
            }
        return described

    @classmethod
    def from_description(cls: type[T], description: dict[str, Any]) -> T:
        """The inverse of `describe`."""
        settings = dict(description)
        name = settings.pop("name")
        if name not in cls.registry:
            raise ValueError(
                f"{cls.family}: {name!r} is not registered (known: {', '.join(cls.names())})"
            )
        member: T = cls.registry[name](**settings)
        return member


def finite(
    argument: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Refuse a setting that is not a finite number inside its interval.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is not finite, or outside the interval; the ends belong to it unless opened.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument}: expected a number; got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the numbers of float64
        number = math.inf
    inside = (low < number if open_low else low <= number) and (
        number < high if open_high else number <= high
    )
    if not (math.isfinite(number) and inside):
        left = f"{'(' if open_low or math.isinf(low) else '['}{low:g}"
        right = f"{high:g}{')' if open_high or math.isinf(high) else ']'}"
        shown = repr(value) if abs(number) < math.inf else str(number)  # digits may be thousands
        raise ValueError(f"{argument}: expected a finite number in {left}, {right}; got {shown}")


def positive_integer(argument: str, value: Any, low: int = 1) -> int:
    """The value as an int, if it is an integer of at least `low`.

    Raises
    ------
    TypeError
        If it is not an integer (a bool is none).
    ValueError
        If it is below `low`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"{argument}: expected an integer of at least {low}; "
            f"got {type(value).__name__} {value!r}"
        )
    number = operator.index(value)
    if number < low:
        raise ValueError(f"{argument}: expected an integer of at least {low}; got {number}")
    return number
