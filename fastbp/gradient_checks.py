"""Gradients compared with two kinds of differences, for laws and layers that are new."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.complex_step import ComplexStep, NotComplexError
from fastbp.initializers import keyed_generator
from fastbp.losses import Loss
from fastbp.model import Model
from fastbp.registry import positive_integer
from fastbp.text import table, without_nan

__all__ = ["GradientCheck", "TensorCheck", "gradient_check"]

SAMPLE_STREAM = 2**63 + 1  # of the generator: apart from initial values and splits
SCALE_ROWS = 64  # rows from which the scale of a tensor is taken, at most

# Central differences: steps from 1e-2 down, each a quarter of the last one, with one extrapolation.
# At 1e-2 the truncation counts, at 1e-7 the rounding of the loss; in between lies a plateau of
# errors below 1e-8 for functions that are smooth over the step.
FIRST_STEP, STEPS = 1e-2, 9
DIFFERENCE_TOLERANCE = 1e-6
COMPLEX_TOLERANCE = 1e-12
INPUTS = "inputs"


@dataclass(frozen=True)
class TensorCheck:
    """What was found for one tensor.

    Attributes
    ----------
    name : str
        Of the parameter, or ``"inputs"``.
    size, checked : int
        Numbers that it has, and how many of their derivatives were compared.
    kinks : int
        Of these, how many central differences say nothing of: a kink lies within every step.
    scale : float
        What errors are divided by: the largest mean over the rows of the magnitudes of their
        gradients, so that rows which cancel out do not make an error look large.
    difference_error, difference_scaled : float
        The largest error against central differences, absolute and scaled; NaN where there are
        kinks alone.
    complex_error, complex_scaled : float
        The same against the complex step; NaN where that is not to be had.
    difference_tolerance, complex_tolerance : float
        What the scaled errors may be.
    passed : bool
        Whether they are that, and anything was compared.
    """

    name: str
    size: int
    checked: int
    kinks: int
    scale: float
    difference_error: float
    difference_scaled: float
    complex_error: float
    complex_scaled: float
    difference_tolerance: float
    complex_tolerance: float
    passed: bool


@dataclass(frozen=True)
class GradientCheck:
    """What `fastbp.gradient_check` found.

    Attributes
    ----------
    tensors : tuple of TensorCheck
        Every parameter tensor, and the inputs.
    dtype : str
        Of the model.
    tolerance : str
        What the tolerances are, and why.
    not_complex : str
        Why there is no complex step; empty where there is one.
    """

    tensors: tuple[TensorCheck, ...]
    dtype: str
    tolerance: str
    not_complex: str

    @property
    def passed(self) -> bool:
        """Whether every tensor passed."""
        return all(tensor.passed for tensor in self.tensors)

    def __str__(self) -> str:
        rows = [
            (
                t.name,
                f"{t.checked} of {t.size}",
                t.kinks,
                f"{t.difference_error:.1e}",
                f"{t.difference_scaled:.1e}",
                f"{t.complex_error:.1e}",
                f"{t.complex_scaled:.1e}",
                "passed" if t.passed else "FAILED",
            )
            for t in self.tensors
        ]
        header = (
            "tensor",
            "checked",
            "kinks",
            "difference",
            "scaled",
            "complex step",
            "scaled",
            "",
        )
        notes = [f"tolerance: {self.tolerance}"]
        if self.not_complex:
            notes.append(f"no complex step: {self.not_complex}")
        failed = sum(not tensor.passed for tensor in self.tensors)
        verdict = f"{failed} of {len(self.tensors)} tensors failed" if failed else "passed"
        return "\n".join([*table(header, rows), *notes, verdict])

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data; NaN becomes None."""
        plain: dict[str, Any] = without_nan(
            {
                "passed": self.passed,
                "dtype": self.dtype,
                "tolerance": self.tolerance,
                "not_complex": self.not_complex,
                "tensors": [asdict(tensor) for tensor in self.tensors],
            }
        )
        return plain


def gradient_check(
    model: Model,
    X: Any,
    y: Any,
    loss: str | Loss = "mse",
    sample_weight: Any = None,
    *,
    samples: int = 20,
    seed: int = 0,
) -> GradientCheck:
    """Compare `Model.loss_and_gradient` and `Model.input_gradient` with differences of the loss.

    The references are worked out in float64, from the same parameters and data:

    - central differences of a copy of the model, ``(L(p + h) - L(p - h)) / 2h``, extrapolated once
      over steps h of which the one is taken where the result changes least. Where a kink of the
      loss (of relu, abs, ...) lies within all steps the entry is marked and not compared;
    - the complex step, ``Im L(p + ih) / h``, from the values of the laws alone, in Python.

    It is meant for small models and some tens of rows: each law is called in the interpreter for
    every unit and row.

    Parameters
    ----------
    model : Model
        Not changed.
    X : array (rows, inputs)
    y : array (rows, outputs), or (rows,) for one output or integer labels
    loss : str or Loss
    sample_weight : array (rows,), optional
        As for `fastbp.train`.
    samples : int
        Entries of each tensor that are compared, chosen by `seed`; all, if there are fewer.
    seed : int

    Returns
    -------
    GradientCheck

    Raises
    ------
    TypeError, ValueError
        For arrays of the wrong kind or shape, and for targets that the loss does not allow.

    Source: Press et al., Numerical Recipes, 2007, section 5.7 (Ridders' choice of the step);
    Squire and Trapp, Using complex variables to estimate derivatives of real functions, 1998.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a Model; got {type(model).__name__}")
    samples = positive_integer("samples", samples)
    positive_integer("seed", seed, low=0)
    resolved = Loss.resolve(loss)
    _, gradient = model.loss_and_gradient(X, y, resolved, sample_weight)
    by_inputs = wide(model.input_gradient(X, y, resolved, sample_weight))
    if model.scaling is not None:  # by what the network sees
        by_inputs = by_inputs * model.scaling.input_scale
    reference = Reference(model, model._data(X, y, resolved, sample_weight), resolved)
    tolerance, words = tolerance_of(model, len(by_inputs))
    found = []
    start = 0
    tensors = [*[(n, p.size) for n, p in model.network.parameters()], (INPUTS, by_inputs.size)]
    for number, (name, size) in enumerate(tensors):
        generator = keyed_generator(seed, SAMPLE_STREAM + number)
        chosen = np.sort(generator.permutation(size)[:samples])
        if name == INPUTS:
            values = by_inputs.ravel()[chosen]
        else:
            values = wide(gradient[start : start + size])[chosen]
            start += size
        found.append(reference.check(name, size, chosen, values, tolerance))
    return GradientCheck(tuple(found), model.dtype, words, reference.not_complex)


def wide(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def tolerance_of(model: Model, rows: int) -> tuple[float, str]:
    """What scaled errors may be, and why."""
    epsilon = float(np.finfo(model.dtype).eps)
    fan_in = max(model.network.inputs, *model.network.widths)
    terms = len(model.network.widths) + fan_in + rows
    bound = epsilon * terms
    words = (
        f"{bound:.1e}, a rounding of {model.dtype} ({epsilon:.1e}) for each of {terms} layers, "
        "terms of the longest sum over a layer, and rows"
    )
    if bound < COMPLEX_TOLERANCE:
        bound = COMPLEX_TOLERANCE
        words = f"{bound:.0e} of {model.dtype}"
    return bound, f"{words}; central differences {max(bound, DIFFERENCE_TOLERANCE):.0e}"


class Reference:
    """Derivatives of the loss by differences, in float64."""

    def __init__(self, model: Model, data: dict[str, Any], loss: Loss) -> None:
        self.loss = loss
        self.model = Model(model.network, dtype="float64")
        self.model.parameters = model.parameters
        self.inputs = wide(data["inputs"])
        is_class = loss.targets == "class"
        self.targets = data["targets"] if is_class else wide(data["targets"])
        self.weights = None if data["weights"] is None else wide(data["weights"])
        self.not_complex = ""
        self.complex: ComplexStep | None = None
        try:
            self.complex = ComplexStep(
                model.network, self.model.weights, self.inputs, self.targets, self.weights, loss
            )
        except NotComplexError as error:
            self.not_complex = str(error)
        self.scales = self.scales_of_rows()

    def scales_of_rows(self) -> dict[str, float]:
        """The scale of each tensor's derivatives, from the magnitudes of single rows' gradients."""
        rows = len(self.inputs)
        shares = np.ones(rows) if self.weights is None else self.weights.copy()
        some = np.flatnonzero(shares)[:SCALE_ROWS]
        magnitudes = np.zeros_like(self.model.parameters)
        inputs = 0.0
        for i in some:
            one = slice(i, i + 1)
            data = self.inputs[one], self.targets[one], self.loss
            magnitudes += shares[i] * np.abs(self.model.loss_and_gradient(*data)[1])
            inputs = max(inputs, shares[i] * float(np.abs(self.model.input_gradient(*data)).max()))
        magnitudes /= shares[some].sum()
        found, start = {}, 0
        for name, specification in self.model.network.parameters():
            found[name] = float(magnitudes[start : start + specification.size].max())
            start += specification.size
        return found | {INPUTS: inputs / float(shares.sum())}

    def check(
        self, name: str, size: int, chosen: NDArray[np.int64], values: NDArray[Any], bound: float
    ) -> TensorCheck:
        """Compare some derivatives by a tensor with both kinds of differences."""
        exact = self.by_complex_step(name, chosen)
        differences = np.array([self.by_difference(name, int(i)) for i in chosen])
        known = np.isfinite(differences)
        scale = self.scales[name]
        if not scale > 0:  # nothing depends on it: every error counts in full
            scale = 1.0
        difference_bound = max(bound, DIFFERENCE_TOLERANCE)
        with np.errstate(invalid="ignore"):
            from_differences = np.abs(values - differences)[known]
            from_exact = np.abs(values - exact)
        difference_error = float(from_differences.max()) if known.any() else math.nan
        complex_error = float(from_exact.max()) if self.complex is not None else math.nan
        # Errors that are NaN though there was something to compare with are failures.
        is_compared = bool(known.any()) or self.complex is not None
        passed = is_compared and bool(np.isfinite(values).all())
        if known.any():
            passed = passed and difference_error <= difference_bound * scale
        if self.complex is not None:
            passed = passed and complex_error <= bound * scale
        return TensorCheck(
            name=name,
            size=size,
            checked=len(chosen),
            kinks=int((~known).sum()),
            scale=scale,
            difference_error=difference_error,
            difference_scaled=difference_error / scale,
            complex_error=complex_error,
            complex_scaled=complex_error / scale,
            difference_tolerance=difference_bound,
            complex_tolerance=bound,
            passed=bool(passed),
        )

    def by_complex_step(self, name: str, chosen: NDArray[np.int64]) -> NDArray[Any]:
        """The derivatives by some numbers of a tensor; NaN where there is no complex step."""
        if self.complex is None:
            return np.full(len(chosen), np.nan)
        if name != INPUTS:
            return np.array([self.complex.by_parameter(name, int(i)) for i in chosen])
        rows, columns = np.divmod(chosen, self.inputs.shape[1])
        by_column = {int(j): self.complex.by_inputs(int(j)) for j in set(columns.tolist())}
        return np.array([by_column[int(j)][i] for i, j in zip(rows, columns, strict=True)])

    def by_difference(self, name: str, index: int) -> float:
        """The derivative by one number, by central differences; NaN where a kink is too near."""
        array = (self.inputs if name == INPUTS else self.model.weights[name]).reshape(-1)
        old = float(array[index])

        def loss_at(value: float) -> float:
            array[index] = value
            return self.model.loss(self.inputs, self.targets, self.loss, self.weights)

        try:
            return derivative(loss_at, old, self.scales[name] * DIFFERENCE_TOLERANCE)
        finally:
            array[index] = old


def derivative(function: Callable[[float], float], at: float, wanted: float) -> float:
    """A derivative by central differences; NaN where it cannot be had to some precision.

    Parameters
    ----------
    function : callable
        Of a float.
    at : float
    wanted : float
        The error that is fine.
    """
    middle = function(at)
    best, error = math.nan, math.inf
    before = extrapolated = bend = math.nan
    for k in range(STEPS):
        step = max(abs(at), 0.1) * FIRST_STEP * 0.25**k
        high, low = at + step, at - step
        above, below = function(high), function(low)
        central = (above - below) / (high - low)
        # Left and right of a kink slopes differ by the same, however small the step.
        bends = (above - middle) / (high - at) - (middle - below) / (at - low)
        rounding = np.finfo(np.float64).eps * max(abs(above), abs(below)) / step
        result = (16 * central - before) / 15
        is_smooth = abs(bends) <= 0.5 * abs(bend) or abs(bends) <= wanted + 8 * rounding
        uncertain = abs(result - extrapolated) + rounding
        if is_smooth and uncertain < error:
            best, error = result, uncertain
        if error < 0.01 * wanted:
            break
        before, extrapolated, bend = central, result, bends
    return best if error <= 0.25 * wanted else math.nan
