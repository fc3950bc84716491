"""Minimax polynomials with coefficients of a working precision, by the exchange of Remez.

Source: Muller, Elementary Functions, 3rd edition, 2016, chapters 3 and 4 (Remez's exchange, and
polynomials whose coefficients are machine numbers).
"""

from __future__ import annotations

import mpmath
import numpy as np
from mpmath import mpf

__all__ = ["fit"]

DIGITS = 50
GRID = 300
EXCHANGES = 30


def chebyshev_points(low, high, count):
    """The extrema of a Chebyshev polynomial on [low, high], ascending."""
    middle, half = (low + high) / 2, (high - low) / 2
    return [middle - half * mpmath.cos(mpmath.pi * i / (count - 1)) for i in range(count)]


def horner(coefficients, x):
    """The polynomial with the given coefficients, lowest first."""
    total = mpf(0)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total


def extrema(errors, count):
    """Indices of `count` successive alternating extrema of a sampled error, or None."""
    groups: list[int] = []
    for i, error in enumerate(errors):
        if groups and (error > 0) == (errors[groups[-1]] > 0):
            if abs(error) > abs(errors[groups[-1]]):
                groups[-1] = i
        else:
            groups.append(i)
    while len(groups) > count:  # drop the smaller end
        groups.pop(0 if abs(errors[groups[0]]) < abs(errors[groups[-1]]) else -1)
    return groups if len(groups) == count else None


def remez(points, values, weights, count):
    """Coefficients of the polynomial that minimises the largest weighted error on the points."""
    chosen = [round(i * (len(points) - 1) / count) for i in range(count + 1)]
    best, least = None, mpf("inf")
    for _ in range(EXCHANGES):
        matrix = mpmath.matrix(count + 1, count + 1)
        right = mpmath.matrix(count + 1, 1)
        for row, i in enumerate(chosen):
            power = mpf(1)
            for column in range(count):
                matrix[row, column] = power
                power *= points[i]
            matrix[row, count] = (-1) ** row / weights[i]
            right[row] = values[i]
        try:
            solution = mpmath.lu_solve(matrix, right)
        except ZeroDivisionError:  # the extrema of an earlier exchange serve as well
            break
        coefficients = [solution[i] for i in range(count)]
        errors = [
            weight * (horner(coefficients, point) - value)
            for point, value, weight in zip(points, values, weights, strict=True)
        ]
        largest = max(abs(error) for error in errors)
        if largest < least:
            best, least = coefficients, largest
        exchanged = extrema(errors, count + 1)
        if exchanged is None or exchanged == chosen:
            break
        chosen = exchanged
    return best, least


def rounded_one_by_one(points, values, weights, count, real, refits):
    """Coefficients rounded lowest first, the rest fitted again after each of the first few."""
    rounded: list[float] = []
    rest, costs = values, weights
    coefficients, _ = remez(points, rest, costs, count)
    for position in range(count):
        value = float(real(mpmath.nstr(coefficients[0], 30)))
        rounded.append(value)
        coefficients = coefficients[1:]
        if position < refits and coefficients:
            rest = [(r - value) / p for r, p in zip(rest, points, strict=True)]
            costs = [c * abs(p) for c, p in zip(costs, points, strict=True)]
            refitted, _ = remez(points, rest, costs, count - position - 1)
            coefficients = refitted or coefficients
    return rounded


def fit(function, weight, interval, count, real):
    """Coefficients of type `real`, lowest first, and the largest weighted error.

    Parameters
    ----------
    function : callable
        What the polynomial approximates.
    weight : callable
        What a unit of error of the polynomial costs.
    interval : tuple
        Where; its ends are kept away from zero by the caller if the function is undefined there.
    count : int
        How many coefficients.
    real : type
        ``np.float32`` or ``np.float64``. The coefficients are rounded one by one, lowest first,
        and the rest are fitted again to what the rounded ones leave.
    """
    with mpmath.workdps(DIGITS):
        points = chebyshev_points(mpf(interval[0]), mpf(interval[1]), GRID)
        values = [function(point) for point in points]
        weights = [weight(point) for point in points]
        least, best = mpf("inf"), None
        # How many coefficients to refit is a matter of luck: all ways are tried.
        for refits in range(min(count, 9) if real is np.float32 else 3):
            rounded = rounded_one_by_one(points, values, weights, count, real, refits)
            error = max(
                w * abs(horner(rounded, p) - v)
                for p, v, w in zip(points, values, weights, strict=True)
            )
            if error < least:
                least, best = error, rounded
    return np.array(best, dtype=real), float(least)
