"""What the elementary functions are made of: each becomes one or two vector instructions.

Numba widens the integer arithmetic of a float32 function to int64 and turns conditional
expressions into branches; both keep LLVM from vectorising a loop. Here every operation keeps the
width of its first argument and nothing branches.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

__all__ = [
    "DOUBLE",
    "FORMATS",
    "SINGLE",
    "Format",
    "add",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bits",
    "inline",
    "magnitude",
    "multiply",
    "narrow",
    "number",
    "polynomial",
    "polynomial_of_square",
    "select",
    "shift_left",
    "shift_right",
    "shift_right_unsigned",
    "subtract",
    "table",
    "widen",
    "with_sign_of",
]


class Format(NamedTuple):
    """A binary floating-point format of IEEE 754.

    Attributes
    ----------
    kind : Any
        Numba's type.
    real, integer : type
        NumPy's scalar types of the numbers and of integers of the same width.
    fraction_bits, bias : int
        Stored bits of the significand; what the exponent field exceeds the exponent by.
    magic : Any
        1.5 * 2**fraction_bits: added to a small number, it leaves the nearest integer in the low
        bits of the sum.
    """

    kind: Any
    real: Any
    integer: Any
    fraction_bits: int
    bias: int
    magic: Any

    @property
    def magic_bits(self) -> Any:
        """The bits of `magic` as an integer."""
        return np.asarray(self.magic).view(self.integer)[()]

    def split(self, value: Fraction) -> tuple[Any, Any]:
        """A constant as the sum of two numbers of this format."""
        high = self.real(float(value))
        return high, self.real(float(value - Fraction(float(high))))


SINGLE = Format(types.float32, np.float32, np.int32, 23, 127, np.float32(1.5 * 2.0**23))
DOUBLE = Format(types.float64, np.float64, np.int64, 52, 1023, np.float64(1.5 * 2.0**52))
FORMATS = (SINGLE, DOUBLE)

# LLVM can vectorise a loop only after every function in it has been inlined.
inline = register_jitable(forceinline=True, error_model="numpy")


def integer_operation(method: str) -> Any:
    """An operation on two integers that keeps the type of the first."""

    @intrinsic
    def operation(typing_context, a, b):
        def generate(context, builder, signature, arguments):
            return getattr(builder, method)(*arguments)

        return a(a, a), generate

    return operation


add = integer_operation("add")
subtract = integer_operation("sub")
multiply = integer_operation("mul")
bit_and = integer_operation("and_")
bit_or = integer_operation("or_")
bit_xor = integer_operation("xor")
shift_left = integer_operation("shl")
shift_right = integer_operation("ashr")
shift_right_unsigned = integer_operation("lshr")


def cast(method: str, results: dict[Any, Any]) -> Any:
    """A conversion that is one LLVM instruction; `results` gives the result type of each type."""

    @intrinsic
    def conversion(typing_context, value):
        result = results[value]

        def generate(context, builder, signature, arguments):
            return getattr(builder, method)(arguments[0], context.get_value_type(result))

        return result(value), generate

    return conversion


bits = cast("bitcast", {types.float32: types.int32, types.float64: types.int64})
number = cast("bitcast", {types.int32: types.float32, types.int64: types.float64})
widen = cast("zext", {types.int32: types.int64})
narrow = cast("trunc", {types.int64: types.int32})


@intrinsic
def select(typing_context, condition, a, b):
    """`a` where the condition holds, `b` elsewhere; both are computed."""

    def generate(context, builder, signature, arguments):
        return builder.select(*arguments)

    return a(types.boolean, a, a), generate


def sign_operation(name: str, count: int) -> Any:
    """An operation on the sign bit that LLVM has an intrinsic for."""

    @intrinsic
    def unary(typing_context, a):
        def generate(context, builder, signature, arguments):
            kind = arguments[0].type
            function = builder.module.declare_intrinsic(name, [kind], ir.FunctionType(kind, [kind]))
            return builder.call(function, arguments)

        return a(a), generate

    @intrinsic
    def binary(typing_context, a, b):
        def generate(context, builder, signature, arguments):
            kind = arguments[0].type
            function = builder.module.declare_intrinsic(
                name, [kind], ir.FunctionType(kind, [kind, kind])
            )
            return builder.call(function, arguments)

        return a(a, a), generate

    return unary if count == 1 else binary


magnitude = sign_operation("llvm.fabs", 1)
with_sign_of = sign_operation("llvm.copysign", 2)


def polynomial(coefficients: Any) -> Any:
    """The polynomial with the given coefficients, lowest first, by Estrin's scheme with fma.

    Neighbours are joined, then neighbouring pairs with x**2, and so on: Horner's rule needs a few
    multiplications less, but each of its steps waits for the one before.
    Source: Knuth, The Art of Computer Programming, volume 2, section 4.6.4.
    """
    constants = [float(coefficient) for coefficient in coefficients]

    @intrinsic
    def evaluate(typing_context, x):
        def generate(context, builder, signature, arguments):
            (power,) = arguments
            terms = [ir.Constant(power.type, constant) for constant in constants]
            while len(terms) > 1:
                pairs = zip(terms[0::2], terms[1::2], strict=False)
                alone = terms[len(terms) & ~1 :]
                terms = [builder.fma(odd, power, even) for even, odd in pairs] + alone
                if len(terms) > 1:
                    power = builder.fmul(power, power)
            return terms[0]

        return x(x), generate

    return evaluate


def polynomial_of_square(coefficients: Any) -> Any:
    """A polynomial of x, given x and x**2: Horner's rule in x**2 on pairs ``c[k] + c[k + 1] x``.

    As many multiply-adds as Horner's rule in x, and half as long a chain.
    """
    constants = [float(coefficient) for coefficient in coefficients]

    @intrinsic
    def evaluate(typing_context, x, square):
        def generate(context, builder, signature, arguments):
            value, power = arguments
            terms = [ir.Constant(value.type, constant) for constant in constants]
            pairs = [
                builder.fma(terms[k + 1], value, terms[k]) if k + 1 < len(terms) else terms[k]
                for k in range(0, len(terms), 2)
            ]
            total = pairs.pop()
            while pairs:
                total = builder.fma(total, power, pairs.pop())
            return total

        return x(x, x), generate

    return evaluate


def table(values: Any) -> Any:
    """Reads one of an array of constant integers, without a check of the index."""
    element = {4: types.int32, 8: types.int64}[values.dtype.itemsize]

    @intrinsic
    def read(typing_context, index):
        def generate(context, builder, signature, arguments):
            kind = context.get_value_type(element)
            constants = ir.Constant(ir.ArrayType(kind, len(values)), values.tolist())
            memory = cgutils.global_constant(builder, "fastbp.table", constants)
            zero = ir.Constant(arguments[0].type, 0)
            return builder.load(builder.gep(memory, [zero, arguments[0]], inbounds=True))

        return element(index), generate

    return read
