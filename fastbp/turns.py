"""Who may do what only one call at a time may do, and what a forked child finds of it.

A lock that is taken without waiting can be lost: a Ctrl-C that arrives after it was taken and
before the block that gives it back has been entered leaves it taken for ever. So a call that will
not wait writes itself into a line instead, inside the block that takes it out again.

A forked child has only the thread that forked. What the others held they would hold for ever; so
whoever holds what threads take turns at is told about the fork, in the child.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

__all__ = ["Line", "RenewedLock", "one_at_a_time", "tell_of_forks"]

Trains = TypeVar("Trains", bound=Callable[..., Any])


class Forked(Protocol):
    """What is to be told."""

    def after_fork_in_child(self) -> None:
        """Make new what a thread of the parent may have held, or have been at work on."""


TOLD: weakref.WeakSet[Any] = weakref.WeakSet()


def tell_of_forks(owner: Forked) -> None:
    """Call ``owner.after_fork_in_child()`` in every forked child, while the owner lives."""
    TOLD.add(owner)


def after_fork_in_child() -> None:
    """Tell all of them."""
    for owner in list(TOLD):
        owner.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork_in_child)


class RenewedLock:
    """Has a lock, another one in a forked child."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """A thread of the parent may have held it."""
        self.lock = threading.Lock()


class Line:
    """Calls in the order in which they came; the first one has what the others came for.

    Use it so, and no interrupt at any point leaves a call in the line::

        call = object()
        try:
            if not line.is_first(call):
                ...  # refuse
            ...
        finally:
            line.calls.pop(call, None)

    (Python looks for signals after a call has returned, and not before `pop` is called.)
    """

    def __init__(self) -> None:
        self.calls: dict[object, None] = {}
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """The calls went on in the parent."""
        self.calls = {}

    def is_first(self, call: object) -> bool:
        """Stand in the line; whether nobody stands before."""
        self.calls[call] = None
        return list(self.calls)[0] is call  # noqa: RUF015  (no other thread can come between)


def one_at_a_time(train: Trains) -> Trains:
    """Let a function train a model only while no other call of it trains that model.

    Parameters
    ----------
    train : callable
        Its first argument is the model.
    """

    @functools.wraps(train)
    def train_alone(model: Any, *arguments: Any, **keywords: Any) -> Any:
        line = getattr(model, "_trainings", None)
        if not isinstance(line, Line):  # no model, which `train` says better
            return train(model, *arguments, **keywords)
        call = object()
        try:
            if not line.is_first(call):
                raise RuntimeError(
                    "model: is being trained by another call, in another thread or around this "
                    "one; train a copy of it (copy.copy), or wait for the other call to end"
                )
            return train(model, *arguments, **keywords)
        finally:
            line.calls.pop(call, None)

    return cast(Trains, train_alone)
