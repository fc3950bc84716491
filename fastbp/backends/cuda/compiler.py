"""Compiling kernels to machine code: the only module that touches numba-cuda-mlir.

It gives the words of `language` their meaning on the device (`grid_words`, `tensor_words` and
`elementary_words` the others, with what they import from here), turns plain Python functions into
device functions, and emits a cubin for a named architecture; no driver and no GPU are needed.
Imported where the cache has no code, and only there.

Pointers are LLVM's, so an index costs no wrap-around. Which memory a pointer leads to is inferred
once everything is inlined: `as_pointer` says global, `shared_memory` says shared, and so does every
load and store of the result then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba_cuda_mlir.tools as toolkit
from numba_cuda_mlir import cuda, extending, types
from numba_cuda_mlir._mlir import ir
from numba_cuda_mlir._mlir.dialects import arith, gpu, llvm, memref, nvvm
from numba_cuda_mlir._mlir.dialects import math as mathematics
from numba_cuda_mlir._mlir.extras import types as T
from numba_cuda_mlir.lowering_utilities import constant, convert, try_extract_constant

from fastbp.backends.cuda import language
from fastbp.backends.cuda.functions import Functions

__all__ = [
    "FLOAT",
    "INTEGER",
    "NUMBER",
    "POINTER",
    "T",
    "arith",
    "compile_cubin",
    "constant",
    "convert",
    "emit_as_first",
    "extending",
    "functions",
    "gpu",
    "ir",
    "llvm",
    "mathematics",
    "nothing",
    "number_type",
    "nvvm",
    "real",
    "try_extract_constant",
    "word",
]

device: Any = cuda  # whose stub has not all that it has
GLOBAL, SHARED = 1, 3  # LLVM's address spaces
DYNAMIC = -2147483648  # an index of getelementptr that is not a constant
VECTOR_BITS = 128


class Addresses:
    """What `as_pointer` may get in the kernel that is being compiled."""

    may_be_shared = False


def number_type(dtype: str) -> Any:
    """The compiler's type for ``float32``, ``float64`` or ``int64``."""
    return getattr(types, dtype)


# Code is emitted for a word where it stands, a fraction of the work of a function of its own.
INTEGER, FLOAT, NUMBER, POINTER = types.Integer, types.Float, types.Number, types.CPointer


def word(function: Any, result: Callable[..., Any], *kinds: Any) -> Callable[..., Any]:
    """Give a word its type and its code.

    `result` makes the type from those of the arguments, of the given kinds; the decorated function
    gets the compiler, those types and the values, and returns the value.
    """

    def register(emit: Any) -> Any:
        extending.type_callable(function)(lambda context: result)

        @extending.lower_builtin(function, *kinds)
        def lower(builder: Any, target: Any, arguments: Any, keywords: Any) -> None:
            values = builder.load_vars(arguments) if arguments else []
            given = [builder.get_numba_type(argument) for argument in arguments]
            builder.store_var(target, emit(builder, given, *values))

        return emit

    return register


def nothing(*kinds: Any) -> Any:
    return types.none


def number(*kinds: Any) -> Any:
    return types.int64


def first(kind: Any, *others: Any) -> Any:
    return kind


def pointer_to_last(*kinds: Any) -> Any:
    return types.CPointer(kinds[-1].instance_type)


def long(value: Any) -> Any:
    """A value, of the compiler or known, as a number of 64 bits."""
    return constant(value, T.i64()) if isinstance(value, int) else convert(value, T.i64())


def element_address(builder: Any, kind: Any, pointer: Any, index: Any) -> Any:
    storage, result = builder.get_storage_type(kind.dtype), llvm.PointerType.get()
    return llvm.getelementptr(result, pointer, [long(index)], [DYNAMIC], storage, None)


def index_plus(base: Any, step: Any, count: int) -> Any:
    """base + step * count, with the count known."""
    return base if count == 0 else arith.addi(base, arith.muli(step, long(count)))


def storage_vector(builder: Any, pointer: Any) -> tuple[Any, int]:
    """The vector of 16 bytes for a pointer's kind, and how many numbers it has."""
    numbers = VECTOR_BITS // pointer.dtype.bitwidth
    return ir.VectorType.get([numbers], builder.get_storage_type(pointer.dtype)), numbers


def register_reader(name: str) -> Any:
    """Code that reads a special register."""
    read = getattr(nvvm, f"read_ptx_sreg_{name}")
    return lambda builder, kinds: long(read())


def division(divide: Any) -> Any:
    """Code that divides non-negative integers of 31 bits."""
    return lambda builder, kinds, a, b: arith.extui(
        T.i64(), divide(convert(a, T.i32()), convert(b, T.i32()))
    )


word(language.thread, number)(register_reader("tid_x"))
word(language.threads, number)(register_reader("ntid_x"))
word(language.block, number)(register_reader("ctaid_x"))
word(language.blocks, number)(register_reader("nctaid_x"))
word(language.quotient, number, INTEGER, INTEGER)(division(arith.divui))
word(language.remainder, number, INTEGER, INTEGER)(division(arith.remui))


@word(language.barrier, nothing)
def barrier(builder: Any, kinds: Any) -> None:
    gpu.barrier()


@word(language.as_pointer, pointer_to_last, INTEGER, types.Any)
def as_pointer(builder: Any, kinds: Any, address: Any, kind: Any) -> Any:
    if Addresses.may_be_shared:
        return llvm.inttoptr(res=llvm.PointerType.get(), arg=long(address))
    in_global = llvm.inttoptr(res=llvm.PointerType.get(GLOBAL), arg=long(address))
    return llvm.addrspacecast(llvm.PointerType.get(), in_global)


@word(language.shared_memory, pointer_to_last, types.Any)
def shared_memory(builder: Any, kinds: Any, kind: Any) -> Any:
    space = ir.Attribute.parse("#gpu.address_space<workgroup>")
    sizes = [ir.ShapedType.get_dynamic_size()]
    memory = gpu.dynamic_shared_memory(ir.MemRefType.get(sizes, T.i8(), memory_space=space))
    index = arith.index_cast(T.i64(), memref.extract_aligned_pointer_as_index(memory))
    # Through an instruction that the optimizer does not look into: it takes the memory for an
    # object of one byte, with which nothing larger could overlap.
    address = llvm.inline_asm(T.i64(), [index], "mov.u64 $0, $1;", "=l,l")
    in_shared = llvm.inttoptr(res=llvm.PointerType.get(SHARED), arg=address)
    return llvm.addrspacecast(llvm.PointerType.get(), in_shared)


@word(language.address_of, number, POINTER)
def address_of(builder: Any, kinds: Any, pointer: Any) -> Any:
    return llvm.ptrtoint(T.i64(), pointer)


@word(language.offset, first, POINTER, INTEGER)
def offset(builder: Any, kinds: Any, pointer: Any, elements: Any) -> Any:
    return element_address(builder, kinds[0], pointer, elements)


@word(language.registers, pointer_to_last, INTEGER, types.Any)
def registers(builder: Any, kinds: Any, count: Any, kind: Any) -> Any:
    storage = builder.get_storage_type(kinds[1].instance_type)
    size = long(try_extract_constant(count))
    return llvm.alloca(llvm.PointerType.get(), size, storage, alignment=16)


@word(language.fill, nothing, POINTER, INTEGER, types.Any, INTEGER)
def fill(builder: Any, kinds: Any, target: Any, index: Any, value: Any, count: Any) -> None:
    begin, one = long(index), long(1)
    stored = convert(value, builder.get_storage_type(kinds[0].dtype))
    for i in range(try_extract_constant(count)):
        llvm.store(stored, element_address(builder, kinds[0], target, index_plus(begin, one, i)))


# What follows is written out here: as Python loops, 64 statements take the compiler ten seconds.


@word(language.load_vectors, nothing, POINTER, INTEGER, POINTER, *[INTEGER] * 3)
def load_vectors(builder: Any, kinds: Any, *values: Any) -> None:
    target, index, source, place, apart, count = values
    kind, numbers = storage_vector(builder, kinds[0])
    begin, step = long(place), long(apart)
    register = try_extract_constant(index)
    for j in range(try_extract_constant(count)):
        origin = element_address(builder, kinds[2], source, index_plus(begin, step, j))
        loaded = llvm.load(kind, origin, alignment=VECTOR_BITS // 8)
        for q in range(numbers):
            value = llvm.extractelement(loaded, long(q))
            llvm.store(value, element_address(builder, kinds[0], target, register))
            register += 1


@word(language.store_vectors, nothing, POINTER, *[INTEGER] * 3, POINTER, *[INTEGER] * 3)
def store_vectors(builder: Any, kinds: Any, *values: Any) -> None:
    target, place, apart, row_apart, source, index, rows, count = values
    kind, numbers = storage_vector(builder, kinds[0])
    storage = builder.get_storage_type(kinds[0].dtype)
    begin, step, row_step = long(place), long(apart), long(row_apart)
    register, wide = try_extract_constant(index), try_extract_constant(count)
    for i in range(try_extract_constant(rows)):
        for j in range(wide):
            packed = llvm.UndefOp(kind).result
            for q in range(numbers):
                value = llvm.load(storage, element_address(builder, kinds[4], source, register))
                packed = llvm.insertelement(packed, value, long(q))
                register += 1
            end = index_plus(index_plus(begin, row_step, i), step, j)
            goal = element_address(builder, kinds[0], target, end)
            llvm.store(packed, goal, alignment=VECTOR_BITS // 8)


@word(
    language.outer_product, nothing, POINTER, POINTER, INTEGER, INTEGER, POINTER, INTEGER, INTEGER
)
def outer_product(builder: Any, kinds: Any, *values: Any) -> None:
    sums, left, place, stride, right, rows, columns = values
    kind = builder.get_storage_type(kinds[0].dtype)
    high, wide = try_extract_constant(rows), try_extract_constant(columns)
    step, begin = try_extract_constant(stride), long(place)
    factors = [llvm.load(kind, element_address(builder, kinds[4], right, j)) for j in range(wide)]
    for i in range(high):
        origin = element_address(builder, kinds[1], left, arith.addi(begin, long(i * step)))
        value = llvm.load(kind, origin)
        for j, factor in enumerate(factors):
            target = element_address(builder, kinds[0], sums, i * wide + j)
            llvm.store(mathematics.fma(value, factor, llvm.load(kind, target)), target)


@word(language.float_bits, number, FLOAT)
def float_bits(builder: Any, kinds: Any, value: Any) -> Any:
    if kinds[0].bitwidth == 64:
        return arith.bitcast(T.i64(), value)
    return arith.extsi(T.i64(), arith.bitcast(T.i32(), value))


@word(language.shuffle_xor, first, NUMBER, INTEGER)
def shuffle_xor(builder: Any, kinds: Any, value: Any, mask: Any) -> Any:
    # Not the compiler's own shuffle, which sends numbers of 64 bits rounded to 32.
    everyone, last = constant(0xFFFFFFFF, T.i32()), constant(31, T.i32())
    distance, storage = convert(mask, T.i32()), value.type

    def shuffle(part: Any) -> Any:
        return nvvm.shfl_sync(everyone, part, distance, last, nvvm.ShflKind.bfly)

    if kinds[0].bitwidth == 32:
        return shuffle(value)
    bits = value if storage == T.i64() else arith.bitcast(T.i64(), value)
    low = shuffle(arith.trunci(T.i32(), bits))
    high = shuffle(arith.trunci(T.i32(), arith.shrui(bits, long(32))))
    bits = arith.ori(arith.extui(T.i64(), low), arith.shli(arith.extui(T.i64(), high), long(32)))
    return bits if storage == T.i64() else arith.bitcast(storage, bits)


# The functions that laws may call.


def real(kind: Any, *others: Any) -> Any:
    """The type of the first argument, if it is real."""
    return kind if isinstance(kind, FLOAT) else None


def emit_as_first(operation: Any) -> Any:
    """Code that brings all arguments to the type of the first one."""

    def emit(builder: Any, kinds: Any, *values: Any) -> Any:
        storage = builder.get_storage_type(kinds[0])
        return operation(*[convert(value, storage) for value in values])

    return emit


word(language.fma, real, FLOAT, NUMBER, NUMBER)(emit_as_first(mathematics.fma))


def device_function(function: Any) -> Any:
    """A device function, compiled under the name by which its callers will ask for it.

    The compiler would compile it without a name, to learn its type, and once more with the name.
    """
    dispatcher = device.jit(function, device=True)
    compile_callee = dispatcher._compile_device_callee

    def compile_named(signature: Any, abi_name: str | None = None) -> Any:
        if abi_name is None:
            name = f"{dispatcher.py_func.__qualname__}_{id(dispatcher)}"
            given = [kind for kind in signature if not isinstance(kind, types.Omitted)]
            abi_name = toolkit.generate_mangled_name(name, given)
        return compile_callee(signature, abi_name=abi_name)

    dispatcher._compile_device_callee = compile_named
    return dispatcher


# Functions whose pointers made of addresses lead to global memory, and to any.
functions, functions_of_any = Functions(device_function), Functions(device_function)


def compile_cubin(
    function: Any,
    parameters: int,
    chip: str,
    threads: int,
    blocks: int,
    name: str = "kernel",
    in_shared: bool = False,
) -> tuple[bytes, str]:
    """The machine code of a kernel, and the name of the kernel in it.

    Parameters
    ----------
    function : callable
        A plain Python function of int64 numbers.
    parameters : int
        How many.
    chip : str
        ``"sm_90"``.
    threads, blocks : int
        Threads of a block, and how many blocks a multiprocessor is to hold: the bounds within
        which the compiler gives out registers.
    name : str
        That the kernel is to have.
    in_shared : bool
        Whether addresses may be those of shared memory.
    """
    from fastbp.backends.cuda import elementary_words, grid_words, tensor_words  # noqa: F401

    # The compiler asks the driver for the GPU's architecture even where one is named.
    toolkit._cached_cc = divmod(int(chip.removeprefix("sm_")), 10)
    Addresses.may_be_shared = in_shared
    cubin: bytes = device.compile_cubin(
        (functions_of_any if in_shared else functions).rebound(function),
        types.void(*[types.int64] * parameters),
        chip=chip,
        launch_bounds=(threads, blocks),
        abi_info={"abi_name": name},
    )
    return cubin, name
