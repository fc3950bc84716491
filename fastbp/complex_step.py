"""Derivatives by complex step: plain Python and NumPy arithmetic, apart from every kernel.

For an analytic function ``f'(x) = Im f(x + ih) / h`` without any cancellation, so h may be 1e-30
and the result is exact to rounding. Laws are scalar Python functions; here they run on complex
numbers that are compared by their real parts, so that a branch is the one that the real number
takes. Of a law only the value is used, never the derivative that it returns.

Source: Squire and Trapp, Using complex variables to estimate derivatives of real functions, 1998.
"""

from __future__ import annotations

import cmath
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import elementary
from fastbp.layers import Layer
from fastbp.losses import Loss
from fastbp.network import Network

__all__ = ["ComplexStep", "NotComplexError"]

STEP = 1e-30

Array = NDArray[Any]


class NotComplexError(Exception):
    """Something cannot be evaluated on complex numbers; says what, and why."""


def real_part(value: Any) -> float:
    return float(value.real)


class ByReal(complex):
    """A complex number that is compared by its real part."""

    __slots__ = ()
    __hash__ = complex.__hash__

    def __lt__(self, other: Any) -> bool:
        return self.real < real_part(other)

    def __le__(self, other: Any) -> bool:
        return self.real <= real_part(other)

    def __gt__(self, other: Any) -> bool:
        return self.real > real_part(other)

    def __ge__(self, other: Any) -> bool:
        return self.real >= real_part(other)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, complex | float | int) and self.real == real_part(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __bool__(self) -> bool:
        return self.real != 0

    def __neg__(self) -> ByReal:
        return ByReal(-self.real, -self.imag)

    def __pos__(self) -> ByReal:
        return self

    def __abs__(self) -> Any:
        return -self if self.real < 0 else self

    def __add__(self, other: Any) -> ByReal:
        return ByReal(complex(self) + other)

    def __sub__(self, other: Any) -> ByReal:
        return ByReal(complex(self) - other)

    def __rsub__(self, other: Any) -> ByReal:
        return ByReal(other - complex(self))

    def __mul__(self, other: Any) -> ByReal:
        return ByReal(complex(self) * other)

    def __truediv__(self, other: Any) -> ByReal:
        return ByReal(complex(self) / other)

    def __rtruediv__(self, other: Any) -> ByReal:
        return ByReal(other / complex(self))

    def __pow__(self, other: Any, modulus: None = None) -> ByReal:
        return ByReal(complex(self) ** other)

    def __complex__(self) -> complex:
        return complex(self.real, self.imag)

    __radd__, __rmul__ = __add__, __mul__


def on_numbers(function: Callable[..., complex]) -> Callable[..., ByReal]:
    """An analytic function on the numbers above; infinity where it leaves the range of floats."""

    def called(*values: Any) -> ByReal:
        try:
            return ByReal(function(*(complex(value.real, value.imag) for value in values)))
        except OverflowError:
            return ByReal(math.inf)

    return called


def special(name: str) -> Callable[[complex], complex]:
    """A function of SciPy that takes complex numbers."""

    def called(z: complex) -> complex:
        import scipy.special

        return complex(getattr(scipy.special, name)(z))

    return called


def logistic(z: complex) -> complex:
    if z.real >= 0:
        return 1 / (1 + cmath.exp(-z))
    decayed = cmath.exp(z)
    return decayed / (1 + decayed)


# What stands for each of the elementary functions.
COMPLEX: dict[str, Callable[..., Any]] = {
    "constant": lambda value, like: ByReal(value),
    "exp": on_numbers(cmath.exp),
    "expm1": on_numbers(special("expm1")),
    "log": on_numbers(cmath.log),
    "log1p": on_numbers(special("log1p")),
    "tanh": on_numbers(cmath.tanh),
    "erf": on_numbers(special("erf")),
    "sin": on_numbers(cmath.sin),
    "cos": on_numbers(cmath.cos),
    "sqrt": on_numbers(cmath.sqrt),
    "power": on_numbers(lambda x, y: cmath.exp(y * cmath.log(x))),
    "multiply_add": on_numbers(lambda a, b, c: a * b + c),
    "sigmoid": on_numbers(logistic),
    "sign": lambda x: ByReal(math.copysign(1.0, x.real) if x.real != 0 else x.real),
}
REPLACED = {getattr(elementary, name): function for name, function in COMPLEX.items()}


def names_in(code: types.CodeType) -> set[str]:
    """The global names that a function uses, and those inside it."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= names_in(constant)
    return found


def on_complex_numbers(function: Any, known: dict[Any, Any]) -> Any:
    """A copy of a law, and of what it calls, that takes complex numbers.

    Of what is jitted, the Python function that it was made of is taken.
    """
    function = getattr(function, "py_func", function)
    if function is elementary:
        return types.SimpleNamespace(**COMPLEX)
    if isinstance(function, types.FunctionType) and function in REPLACED:
        return REPLACED[function]
    if not isinstance(function, types.FunctionType):
        return function
    if function in known:
        return known[function]
    names = dict(function.__globals__)
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    copy = types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, cells or None
    )
    known[function] = copy
    for name in names_in(function.__code__) & set(names):
        names[name] = on_complex_numbers(names[name], known)
    for cell, original in zip(cells, function.__closure__ or (), strict=True):
        cell.cell_contents = on_complex_numbers(original.cell_contents, known)
    return copy


def law_and_derivative(law: Any, settings: Sequence[float], *arrays: Array) -> tuple[Array, Array]:
    """Value and derivative of a law by its first argument, element by element.

    Raises
    ------
    NotComplexError
        If it does not take complex numbers.
    """
    if not isinstance(getattr(law, "py_func", law), types.FunctionType):
        raise NotComplexError(f"it is a {type(law).__name__} and no Python function")
    function = on_complex_numbers(law, {})
    numbers = tuple(float(setting) for setting in settings)
    columns = [array.ravel().tolist() for array in arrays]
    found = np.empty(len(columns[0]), dtype=np.complex128)
    for i, (z, *others) in enumerate(zip(*columns, strict=True)):
        try:
            value, _ = function(ByReal(z, STEP), *map(ByReal, others), numbers)
            found[i] = complex(value)
        except Exception as error:  # a user's law may do anything
            raise NotComplexError(f"{type(error).__name__}: {error}") from None
    shaped = found.reshape(arrays[0].shape)
    return shaped.real, shaped.imag / STEP


class ComplexStep:
    """The loss of a network on some rows, in complex arithmetic of float64.

    Parameters
    ----------
    network : Network
    weights : mapping of str to array
        As `Model.weights` has them.
    inputs, targets : array
        As the network and the loss see them.
    row_weights : array (rows,) or None
    loss : Loss

    Raises
    ------
    NotComplexError
        For laws and layers that cannot be evaluated on complex numbers.
    """

    def __init__(
        self,
        network: Network,
        weights: Mapping[str, Array],
        inputs: Array,
        targets: Array,
        row_weights: Array | None,
        loss: Loss,
    ) -> None:
        self.network, self.loss = network, loss
        self.weights = {name: np.asarray(w, dtype=np.complex128) for name, w in weights.items()}
        self.inputs = np.asarray(inputs, dtype=np.complex128)
        self.targets = targets
        self.laws: dict[str, tuple[Array, Array]] = {}
        ones = (
            np.ones(len(inputs))
            if row_weights is None
            else np.asarray(row_weights, dtype=np.float64)
        )
        self.shares = ones / ones.sum()
        self.value = float(self.shares @ self.row_losses(self.outputs()).real)

    def by_parameter(self, name: str, index: int) -> float:
        """The derivative of the loss by one number of a parameter tensor."""
        tensor = self.weights[name].reshape(-1)
        tensor[index] += 1j * STEP
        try:
            return float(self.shares @ self.row_losses(self.outputs()).imag) / STEP
        finally:
            tensor[index] = tensor[index].real

    def by_inputs(self, column: int) -> Array:
        """The derivative of the loss by a column of the inputs, for every row."""
        self.inputs[:, column] += 1j * STEP
        try:
            losses = self.row_losses(self.outputs())
            return np.asarray(self.shares * losses.imag / STEP)
        finally:
            self.inputs[:, column] = self.inputs[:, column].real

    # The network.

    def outputs(self) -> Array:
        return self.run(self.network.layers, "", self.inputs)

    def run(self, layers: Sequence[Layer], prefix: str, values: Array) -> Array:
        """The outputs of a sequence of layers outside training."""
        for i, layer in enumerate(layers):
            if layer.acts(trains=False):
                values = self.run_layer(layer, f"{prefix}{i}", values)
        return values

    def run_layer(self, layer: Any, name: str, values: Array) -> Array:
        if layer.name == "dense":
            z = values @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
            return self.apply(name, layer.activation, z)
        if layer.name == "layer_norm":
            centred = values - values.mean(axis=1, keepdims=True)
            variance = (centred * centred).mean(axis=1, keepdims=True)
            normalized = centred / np.sqrt(variance + layer.epsilon)
            return np.asarray(self.weights[f"{name}.gain"] * normalized) + self.bias(name)
        if layer.name == "residual":
            return np.asarray(values + self.run(layer.layers, f"{name}.", values))
        raise NotComplexError(f"layer {name}, {layer.label()}: no formula of it is known here")

    def bias(self, name: str) -> Array:
        return self.weights[f"{name}.bias"]

    def apply(self, name: str, activation: Any, z: Array) -> Array:
        """An activation, whose law is worked out once: steps are too small to change its branch."""
        if name not in self.laws:
            try:
                self.laws[name] = law_and_derivative(activation.law, activation.settings, z.real)
            except NotComplexError as error:
                what = f"the law of {type(activation).__name__} in layer {name}"
                raise NotComplexError(f"{what}: {error}") from None
        value, derivative = self.laws[name]
        return np.asarray(value + 1j * derivative * z.imag)

    def row_losses(self, outputs: Array) -> Array:
        """The loss of every row."""
        if self.loss.law is not None:
            if "loss" not in self.laws:
                arrays = outputs.real, np.asarray(self.targets, dtype=np.float64)
                try:
                    self.laws["loss"] = law_and_derivative(
                        self.loss.law, self.loss.settings, *arrays
                    )
                except NotComplexError as error:
                    what = f"the law of {type(self.loss).__name__}"
                    raise NotComplexError(f"{what}: {error}") from None
            value, derivative = self.laws["loss"]
            return np.asarray((value + 1j * derivative * outputs.imag).mean(axis=1))
        if self.loss.name != "cross_entropy":
            raise NotComplexError(f"loss {self.loss.name}: no formula of it is known here")
        shifted = outputs - outputs.real.max(axis=1, keepdims=True)
        logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        smoothing = float(getattr(self.loss, "label_smoothing", 0.0))
        labelled = logarithms[np.arange(len(outputs)), self.targets]
        return np.asarray(-(1 - smoothing) * labelled - smoothing * logarithms.mean(axis=1))
