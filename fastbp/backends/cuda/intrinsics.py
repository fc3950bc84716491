"""Reading a kernel's row of arguments, tuples of numbers in memory, and loops without a loop.

A row holds, for each tensor of the kernel's contract, its address, rows and padded columns, and
then the sizes; all are int64.
"""

from __future__ import annotations

from fastbp.backends.cuda.language import as_pointer, offset

__all__ = [
    "height",
    "in_turn",
    "is_present",
    "padded_columns",
    "pointer",
    "pointer_at",
    "reader",
    "size",
    "writer",
]


def pointer(arguments, position, kind):
    """Where a tensor argument begins."""
    return as_pointer(arguments[3 * position], kind)


def pointer_at(arguments, position, kind, element):
    """The tensor argument from one of its elements on."""
    return offset(pointer(arguments, position, kind), element)


def height(arguments, position):
    """The rows of a tensor argument."""
    return arguments[3 * position + 1]


def padded_columns(arguments, position):
    """The columns of a tensor argument, padding included."""
    return arguments[3 * position + 2]


def is_present(arguments, position):
    """Whether an optional tensor argument is there."""
    return arguments[3 * position] != 0


def size(arguments, tensors, position):
    """A size, which stands after the tensors, of which there are so many."""
    return arguments[3 * tensors + position]


def reader(count):
    """Make ``read(pointer, stride)``, the tuple pointer[0], pointer[stride], ... of `count`."""
    if count == 0:

        def nothing(source, stride):
            return ()

        return nothing
    if count == 1:

        def single(source, stride):
            return (source[0],)

        return single
    before, last = reader(count - 1), count - 1

    def read(source, stride):
        return before(source, stride) + (source[last * stride],)  # noqa: RUF005

    return read


def writer(count):
    """Make ``write(pointer, stride, values)``, which stores a tuple of `count`."""
    if count == 0:

        def nothing(target, stride, values):
            pass

        return nothing
    before, last = writer(count - 1), count - 1

    def write(target, stride, values):
        before(target, stride, values)
        target[last * stride] = values[last]

    return write


def in_turn(make, count):
    """Make a function of three arguments that calls ``make(0)``, ``make(1)``, ... of `count`.

    A loop that is unrolled by hand: numbers of registers have to be constants.
    """
    last = make(count - 1)
    if count == 1:
        return last
    before = in_turn(make, count - 1)

    def run(a, b, c):
        before(a, b, c)
        last(a, b, c)

    return run
