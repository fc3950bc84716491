"""The few scalar operations that Numba's language lacks, each one or two LLVM instructions.

Kernels get addresses as integers, so they need pointers from addresses, a little memory on the
stack, calls by address, and a fused multiply-add that is never left to an optimizer's choice: with
it written out, the bits of a result do not depend on how a loop was vectorised.
"""

from __future__ import annotations

from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

__all__ = [
    "as_pointer",
    "call_kernel",
    "call_product",
    "fma",
    "height",
    "is_present",
    "offset",
    "padded_columns",
    "pointer",
    "pointer_tuple",
    "product_for",
    "read_tuple",
    "size",
    "stack_array",
    "vector",
    "write_tuple",
]


@intrinsic
def fma(typing_context, a, b, c):
    """a * b + c with one rounding."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return a(a, b, c), generate


@intrinsic
def as_pointer(typing_context, address, kind):
    """The address as a pointer to numbers of a kind."""
    result = types.CPointer(kind.instance_type)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(address, kind), generate


@intrinsic
def offset(typing_context, base, elements):
    """The pointer `elements` further on."""

    def generate(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return base(base, elements), generate


@intrinsic(prefer_literal=True)
def stack_array(typing_context, length, kind):
    """A pointer to `length` numbers on the stack of the calling function, not initialised."""
    elements = length.literal_value
    result = types.CPointer(kind.instance_type)

    def generate(context, builder, signature, arguments):
        element = context.get_value_type(kind.instance_type)
        memory = cgutils.alloca_once(builder, element, size=elements)
        memory.align = 64
        return memory

    return result(length, kind), generate


@intrinsic(prefer_literal=True)
def read_tuple(typing_context, base, stride, length):
    """The tuple base[0], base[stride], ... of a length known when compiling."""
    count = length.literal_value
    element = base.dtype
    result = types.UniTuple(element, count)

    def generate(context, builder, signature, arguments):
        values = []
        for i in range(count):
            index = builder.mul(arguments[1], ir.Constant(arguments[1].type, i))
            values.append(builder.load(builder.gep(arguments[0], [index])))
        return context.make_tuple(builder, result, values)

    return result(base, stride, length), generate


@intrinsic(prefer_literal=True)
def pointer_tuple(typing_context, base, stride, length):
    """The tuple of pointers base, base + stride, ... of a length known when compiling."""
    count = length.literal_value
    result = types.UniTuple(base, count)

    def generate(context, builder, signature, arguments):
        pointers = []
        for i in range(count):
            index = builder.mul(arguments[1], ir.Constant(arguments[1].type, i))
            pointers.append(builder.gep(arguments[0], [index]))
        return context.make_tuple(builder, result, pointers)

    return result(base, stride, length), generate


@intrinsic
def write_tuple(typing_context, base, stride, values):
    """Store a tuple at base[0], base[stride], ..."""

    def generate(context, builder, signature, arguments):
        for i in range(len(values)):
            index = builder.mul(arguments[1], ir.Constant(arguments[1].type, i))
            value = builder.extract_value(arguments[2], i)
            cast = context.cast(builder, value, values[i], base.dtype)
            builder.store(cast, builder.gep(arguments[0], [index]))
        return context.get_dummy_value()

    return types.void(base, stride, values), generate


def call(context, builder, signature, arguments):
    """Emit a call by address: the first argument is the address, the rest are passed on."""
    passed = [context.get_value_type(kind) for kind in signature.args[1:]]
    function_type = ir.FunctionType(ir.VoidType(), passed)
    function = builder.inttoptr(arguments[0], function_type.as_pointer())
    builder.call(function, arguments[1:])
    return context.get_dummy_value()


@intrinsic
def call_kernel(typing_context, address, arguments, first_row, last_row):
    """Call a kernel by address; `arguments` is the address of its row of arguments."""

    def generate(context, builder, signature, values):
        return call(context, builder, signature, values)

    integer = types.int64
    return types.void(integer, integer, integer, integer), generate


@intrinsic
def call_product(
    typing_context,
    address,
    target,
    start,
    start_stride,
    a,
    a_row_stride,
    a_step,
    a_block,
    a_block_stride,
    rows,
    b,
    depth,
):
    """Call the matrix product by address; its arguments are those of `product.multiply`."""

    def generate(context, builder, signature, values):
        return call(context, builder, signature, values)

    i = types.int64
    signature = types.void(i, target, start, i, a, i, i, i, i, i, b, i)
    return signature, generate


# Reading a kernel's row of arguments: address, rows and padded columns of each tensor, then the
# sizes. These are intrinsics because kernels call them at every turn, and Numba takes much longer
# over a call of a function.


def argument(builder, arguments, position, part):
    """Emit reading one of the three numbers of a tensor argument."""
    three = ir.Constant(position.type, 3)
    place = builder.add(builder.mul(position, three), ir.Constant(position.type, part))
    return builder.load(builder.gep(arguments, [place]))


def number_of_tensor(part):
    """An operation that reads one of the numbers of a tensor argument."""

    @intrinsic
    def operation(typing_context, arguments, position):
        def generate(context, builder, signature, values):
            return argument(builder, values[0], values[1], part)

        return types.int64(arguments, types.int64), generate

    return operation


# The rows of a tensor argument, of each of its panels; its columns with their padding.
height = number_of_tensor(1)
padded_columns = number_of_tensor(2)


@intrinsic
def pointer(typing_context, arguments, position, kind):
    """A tensor argument as a pointer to its first element."""
    result = types.CPointer(kind.instance_type)

    def generate(context, builder, signature, values):
        address = argument(builder, values[0], values[1], 0)
        return builder.inttoptr(address, context.get_value_type(result))

    return result(arguments, types.int64, kind), generate


@intrinsic
def is_present(typing_context, arguments, position):
    """Whether an optional tensor argument is there."""

    def generate(context, builder, signature, values):
        rows = argument(builder, values[0], values[1], 1)
        return builder.icmp_signed(">", rows, ir.Constant(rows.type, 0))

    return types.boolean(arguments, types.int64), generate


@intrinsic
def size(typing_context, arguments, tensors, position):
    """A size argument, counted after `tensors` tensors."""

    def generate(context, builder, signature, values):
        arguments, tensors, position = values
        first = builder.mul(tensors, ir.Constant(tensors.type, 3))
        return builder.load(builder.gep(arguments, [builder.add(first, position)]))

    return types.int64(arguments, types.int64, types.int64), generate


@register_jitable
def vector(arguments, position, kind):
    """A tensor argument as a one-dimensional array of all its elements."""
    length = arguments[3 * position + 1] * arguments[3 * position + 2]
    return carray(as_pointer(arguments[3 * position], kind), (length,))


@register_jitable
def product_for(arguments, tensors, sizes, width, lanes):
    """The address of the product for panels of a width; those for all widths follow the sizes."""
    return arguments[3 * tensors + sizes + width // lanes - 1]
