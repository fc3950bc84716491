"""Interrupts at chosen places: after the n-th call, instead of after some time."""

import contextlib
import sys


@contextlib.contextmanager
def interrupted_after(files, count, lines=None):
    """Raise a KeyboardInterrupt when so many calls have begun in, or returned to, some files.

    These are the places where Python looks for signals. The list that the block gets is what is
    left: nothing when all interrupts came.

    Parameters
    ----------
    files : str or tuple of str
        How the paths of the files end.
    count : int
    lines : int, optional
        A second interrupt comes before so many lines more of the files.
    """
    left = [count] if lines is None else [count, lines]

    def step(frame):
        if left and frame.f_code.co_filename.endswith(files):
            left[0] -= 1
            if left[0] == 0:
                del left[0]
                raise KeyboardInterrupt

    # Python takes either function away when it raises, so there is one for each interrupt.

    def profile(frame, event, argument):
        # A generator that is dropped is no place where a signal would be looked for.
        if event in {"call", "c_return"} and frame.f_code.co_name != "<genexpr>":
            step(frame)

    def trace(frame, event, argument):
        if event == "line" and len(left) == 1:
            step(frame)
        return trace if frame.f_code.co_filename.endswith(files) else None

    before = sys.gettrace()
    if lines is not None:
        sys.settrace(trace)
    sys.setprofile(profile)
    try:
        yield left
    finally:
        sys.setprofile(None)
        sys.settrace(before)
