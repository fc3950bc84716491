"""What an optimizer is: settings, slots, and two laws that every backend compiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from fastbp.registry import Named, finite

__all__ = ["Optimizer"]


def no_coefficients(step, learning_rate, carry, settings):
    """Begin a step for an optimizer that needs the learning rate alone."""
    return (learning_rate,), carry


@dataclasses.dataclass(frozen=True)
class Optimizer(Named):
    """How a gradient changes the parameters, by name or as an object with settings.

    A step has two laws, both plain scalar Python:

    ``begin(step, learning_rate, carry, settings) -> (coefficients, carry)``
        Once a step, in float64. `step` counts from 1 (as a float), `learning_rate` is that of the
        step's schedule, `carry` is a tuple of running scalars, `settings` the fields after the
        learning rate. `coefficients` are what the update needs.
    ``update(parameter, gradient, slots, coefficients, is_weight) -> (parameter, slots)``
        Once for each parameter, in the network's precision. `slots` are the parameter's own running
        values; `is_weight` is 1 for weights and 0 for biases (weight decay leaves biases alone).

    Which laws, how many slots and how many coefficients may depend on the settings (momentum 0
    needs no slot), so they are properties.
    """

    learning_rate: float

    # Initial values of the scalars that `begin` carries from step to step.
    carry: ClassVar[tuple[float, ...]] = ()

    # What the step of a parameter is in proportion to, besides the learning rate: its "gradient",
    # or its gradient by the "root_mean_square" of it; "" where that is not so, or not known.
    step_follows: ClassVar[str] = ""

    def __post_init__(self) -> None:
        finite("learning_rate", self.learning_rate, 0.0, open_low=True)
        for field in dataclasses.fields(self):
            self.check(field.name, getattr(self, field.name))

    def check(self, name: str, value: Any) -> None:
        """Refuse a setting outside its range, by the meaning of its name."""
        if name in {"beta1", "beta2", "rho", "momentum"}:
            finite(name, value, 0.0, 1.0, open_high=True)
        elif name in {"epsilon", "weight_decay", "momentum_decay", "minimum", "maximum"}:
            finite(name, value, 0.0)
        elif name in {"nesterov", "amsgrad", "centered"} and not isinstance(value, bool):
            raise TypeError(f"{name}: expected True or False; got {type(value).__name__}")

    @property
    def settings(self) -> tuple[float, ...]:
        """The fields after the learning rate, as floats."""
        return super().settings[1:]

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the running values that each parameter has."""
        return ()

    @property
    def coefficient_count(self) -> int:
        """How many coefficients `begin` returns."""
        return len(self.begin(1.0, float(self.learning_rate), self.carry, self.settings)[0])

    @property
    def begin(self) -> Callable[..., Any]:
        """The law that runs once a step."""
        return no_coefficients

    @property
    def update(self) -> Callable[..., Any]:
        """The law that runs once for each parameter."""
        raise NotImplementedError

    def initial_slot(self, slot: str) -> float:
        """The value with which a slot starts."""
        return 0.0
