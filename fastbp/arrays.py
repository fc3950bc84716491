"""Checking what users pass: every array is refused or becomes a contiguous one of the right kind.

Nothing is changed before all checks are through. Messages name the argument, what was expected and
what came.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.losses import Loss
from fastbp.sizes import check_bytes

__all__ = ["as_cotangents", "as_inputs", "as_output_buffer", "as_targets", "as_weights"]


def real_array(argument: str, value: Any) -> NDArray[Any]:
    """The value as an array of real numbers, of whatever precision and layout it has."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{argument}: expected an array without masked values")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{argument}: expected an array of numbers; got {error}") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{argument}: expected real numbers; got dtype {array.dtype}")
    return array


def place(mask: NDArray[np.bool_]) -> str:
    """Where the first True of a mask is, in words."""
    index = np.unravel_index(int(np.argmax(mask)), mask.shape)
    names = ("row", "column")
    return ", ".join(f"{name} {i}" for name, i in zip(names, index, strict=False))


def finite_array(argument: str, array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """The array in a dtype, C-contiguous, refused where it holds NaN or infinity."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        nbytes = array.size * np.dtype(dtype).itemsize
        check_bytes(argument, nbytes, f"an array of shape {array.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(array, dtype=dtype)
    finite = np.isfinite(converted)
    if not finite.all():
        where = place(~finite)
        first = array[np.unravel_index(int(np.argmax(~finite)), finite.shape)]
        if np.isfinite(first):
            raise ValueError(
                f"{argument}: expected numbers that {np.dtype(dtype).name} can hold; "
                f"got {first} at {where}"
            )
        raise ValueError(f"{argument}: expected finite numbers; got {first} at {where}")
    return converted


def as_inputs(value: Any, features: int, dtype: Any, argument: str = "X") -> NDArray[Any]:
    """Inputs as a C-contiguous (rows, features) array.

    Raises
    ------
    TypeError
        For objects, strings and complex numbers.
    ValueError
        For a wrong dimension or number of columns, no rows, NaN or infinity.
    """
    array = real_array(argument, value)
    if array.ndim != 2:
        raise ValueError(
            f"{argument}: expected a 2-D array (rows, {features}); got shape {array.shape}"
        )
    if array.shape[0] == 0:
        raise ValueError(f"{argument}: expected at least one row; got shape {array.shape}")
    if array.shape[1] != features:
        raise ValueError(f"{argument}: expected {features} columns; got {array.shape[1]}")
    return finite_array(argument, array, dtype)


def as_labels(array: NDArray[Any], outputs: int, argument: str) -> NDArray[np.int64]:
    """Integer labels in [0, outputs), one a row, as int64 (rows,)."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"{argument}: expected one integer label a row, shape (rows,); got shape {array.shape}"
        )
    if array.dtype.kind == "f":
        fractional = ~np.isfinite(array) | (array != np.floor(array))
        if fractional.any():
            raise ValueError(
                f"{argument}: expected integer labels; got {array[np.argmax(fractional)]} "
                f"at {place(fractional)}"
            )
    outside = (array < 0) | (array >= outputs)
    if outside.any():
        raise ValueError(
            f"{argument}: expected labels from 0 to {outputs - 1}; "
            f"got {array[np.argmax(outside)]} at {place(outside)}"
        )
    return np.ascontiguousarray(array, dtype=np.int64)


def same_rows(argument: str, array: NDArray[Any], rows: int, partner: str) -> None:
    if array.shape[:1] != (rows,):
        got = array.shape[0] if array.ndim else "a single number"
        raise ValueError(f"{argument}: expected as many rows as {partner} ({rows}); got {got}")


def as_targets(
    value: Any, loss: Loss, rows: int, outputs: int, dtype: Any, argument: str = "y"
) -> NDArray[Any]:
    """Targets as the loss takes them: (rows, outputs) real, or (rows,) int64 labels.

    Raises
    ------
    TypeError
        For objects, strings and complex numbers.
    ValueError
        For a wrong shape, another number of rows than the inputs, NaN or infinity, and values that
        the loss does not allow.
    """
    array = real_array(argument, value)
    same_rows(argument, array, rows, "X" if argument == "y" else "the validation inputs")
    if loss.targets == "class":
        return as_labels(array, outputs, argument)
    if array.ndim == 1 and outputs == 1:
        array = array.reshape(-1, 1)
    if array.ndim != 2 or array.shape[1] != outputs:
        raise ValueError(
            f"{argument}: expected shape ({rows}, {outputs}), one column for each output; "
            f"got {array.shape}"
        )
    targets = finite_array(argument, array, dtype)
    allowed = {
        "count": (lambda: targets >= 0, "numbers of at least 0"),
        "probability": (lambda: (targets >= 0) & (targets <= 1), "numbers from 0 to 1"),
        "sign": (lambda: (targets == 1) | (targets == -1), "-1 or 1"),
    }
    if loss.targets in allowed:
        test, words = allowed[loss.targets]
        outside = ~test()
        if outside.any():
            first = targets[np.unravel_index(int(np.argmax(outside)), outside.shape)]
            raise ValueError(
                f"{argument}: expected {words} for {loss.name}; got {first} at {place(outside)}"
            )
    return targets


def as_weights(
    value: Any, rows: int, dtype: Any, argument: str = "sample_weight"
) -> NDArray[Any] | None:
    """Sample weights as a (rows,) array of numbers of at least 0, not all 0; None stays None.

    Only their ratios matter, so they are scaled by a power of two, exactly, to a largest one
    between 1/2 and 1: neither they nor their products with a loss leave the range of the dtype.
    Those that are subnormal after that become zero, on every device: some processors take them for
    zeros and some do not, and one by a sum of such weights is no number of the dtype.

    Raises
    ------
    TypeError, ValueError
        As for inputs, and for negative weights or a sum of zero.
    """
    if value is None:
        return None
    array = real_array(argument, value)
    if array.ndim != 1:
        raise ValueError(f"{argument}: expected shape ({rows},); got {array.shape}")
    same_rows(argument, array, rows, "X")
    weights = finite_array(argument, array, np.float64)
    if (weights < 0).any():
        where = place(weights < 0)
        raise ValueError(
            f"{argument}: expected weights of at least 0; got a negative one at {where}"
        )
    if not weights.any():
        raise ValueError(f"{argument}: expected a weight above 0 somewhere; got zeros only")
    _, exponent = np.frexp(weights.max())
    scaled: NDArray[Any] = np.ldexp(weights, -exponent).astype(dtype)
    scaled[scaled < np.finfo(scaled.dtype).smallest_normal] = 0
    return scaled


def as_cotangents(value: Any, rows: int, outputs: int, dtype: Any) -> NDArray[Any]:
    """Cotangents as a C-contiguous (rows, outputs) array; (rows,) is taken for one output."""
    array = real_array("v", value)
    if array.ndim == 1 and outputs == 1:
        array = array.reshape(-1, 1)
    if array.shape != (rows, outputs):
        raise ValueError(f"v: expected shape ({rows}, {outputs}); got {array.shape}")
    return finite_array("v", array, dtype)


def as_output_buffer(value: Any, rows: int, outputs: int, dtype: Any) -> NDArray[Any]:
    """An `out=` array that can be written in place.

    Raises
    ------
    TypeError
        If it is no array, or of another dtype.
    ValueError
        If it has another shape or cannot be written.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"out: expected a NumPy array; got {type(value).__name__}")
    if value.dtype != np.dtype(dtype):
        raise TypeError(f"out: expected dtype {np.dtype(dtype).name}; got {value.dtype}")
    if value.shape != (rows, outputs):
        raise ValueError(f"out: expected shape ({rows}, {outputs}); got {value.shape}")
    if not value.flags.writeable:
        raise ValueError("out: expected an array that can be written; got a read-only one")
    return value
