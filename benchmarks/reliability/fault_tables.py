"""What a planted fault is, and all of them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Fault", "in_rooms"]


@dataclass(frozen=True)
class Fault:
    """An edit of one file of the package.

    Attributes
    ----------
    file : str
        Below fastbp/.
    old, new : str
        The text that stands there, exactly once, and what is put in its place.
    what : str
        What goes wrong.
    room : str
        Of tests/fault_rooms.py, whose tests are run before the others.
    """

    file: str
    old: str
    new: str
    what: str
    room: str

    def applied(self, text: str) -> str:
        """The file's text with the fault in it.

        Raises
        ------
        ValueError
            Where the old text does not stand there exactly once.
        """
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.file}: {self.old!r} occurs {count} times ({self.what})")
        return text.replace(self.old, self.new)


def in_rooms(*entries: tuple[str, str, list[tuple[str, str, str]]]) -> list[Fault]:
    """The faults of a table: (file, room, [(what, old, new), ...])."""
    return [
        Fault(file, old, new, what, room)
        for file, room, edits in entries
        for what, old, new in edits
    ]
