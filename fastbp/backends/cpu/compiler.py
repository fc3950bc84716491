"""Compiling: from a factory to object code. Imported where the cache has no code, and only there.

A factory closes over its law and its number type and returns a Python function. Numba compiles it
to LLVM's intermediate code; one more function with a plain C signature, into which it is inlined,
is all that the object code exports. So an object refers to nothing of Numba's, and loading it needs
no Numba.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import config
from numba.core.compiler import Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import is_jitted, register_jitable

import fastbp.backends.cpu.elementary  # noqa: F401  (lets Numba compile laws)
from fastbp.backends.cpu import (
    constraint,
    dense,
    driver,
    gradient,
    loss,
    masks,
    normalization,
    product,
    residual,
    rows,
    step,
    synchronization,
    update,
)
from fastbp.backends.cpu.lanes import gradient as lanes_gradient
from fastbp.backends.cpu.lanes import loss as lanes_loss
from fastbp.backends.cpu.lanes import propagation as lanes_propagation
from fastbp.backends.cpu.machine_code import Function
from fastbp.backends.cpu.predict_rows import predict_rows
from fastbp.registry import is_own

__all__ = ["FACTORIES", "compilable", "compile_object", "number_type"]

# The kernels of the step tables, and what is called from Python or by the operating system.
MODULES = (
    constraint,
    dense,
    gradient,
    loss,
    masks,
    normalization,
    residual,
    rows,
    step,
    update,
)
MODULES_IN_LANES = (lanes_gradient, lanes_loss, lanes_propagation)
FACTORIES: dict[str, Callable[..., Any]] = {
    name: getattr(module, name)
    for module in (*MODULES, *MODULES_IN_LANES)
    for name in module.__all__
}
OTHERS: dict[str, Callable[..., Any]] = {
    "multiply": product.multiply,
    "run_batches": driver.run_batches,
    "predict_rows": predict_rows,
    **{name: getattr(synchronization, name) for name in synchronization.FACTORIES},
}
PLACES = types.CPointer(types.int64)
KERNEL_SIGNATURE = types.void(PLACES, types.int64, types.int64)
# What Python calls: the same, with a result.
ENTRY_SIGNATURE = types.int64(PLACES, types.int64, types.int64)
RAISED = "fastbp_raised"  # no such function exists
ENTRIES = {"call_in_mode", "exchange_mode", "work"}  # `work` gives pthread_create its null


def number_type(dtype: str) -> Any:
    """Numba's type for ``float32`` or ``float64``."""
    return {"float32": types.float32, "float64": types.float64}.get(dtype)


def product_signature(real: Any) -> Any:
    """The C signature of the matrix product."""
    integer, numbers = types.int64, types.CPointer(real)
    factors = (numbers, *(integer,) * 5, numbers, integer)
    return types.void(numbers, numbers, integer, *factors)


@functools.cache
def compilable(law: Callable[..., Any]) -> Any:
    """A law in a form that kernels may close over; jitted functions are taken as they are."""
    # Inlined, however large: a call keeps LLVM from vectorising the loop round it.
    return law if is_jitted(law) else register_jitable(forceinline=True)(law)


def compile_object(function: Function, symbol: str) -> bytes:
    """The object code of a function.

    Parameters
    ----------
    function : Function
    symbol : str
        The name that the code exports.
    """
    name, real = function.name, number_type(function.dtype)
    factory = FACTORIES.get(name) or OTHERS[name]
    law = () if function.law is None else (compilable(function.law),)
    python_function = factory(real, *law, *function.numbers)
    signature = ENTRY_SIGNATURE if name in ENTRIES else KERNEL_SIGNATURE
    if name == "multiply":
        signature = product_signature(real)
    with global_compiler_lock:
        code = emit(python_function, signature, symbol, may_raise=not is_optimised())
        if code is None and (function.law is None or is_own(function.law)):
            # Ours do not: LLVM could not show it here.
            code = emit(python_function, signature, symbol, may_raise=True)
    if code is None:
        raise TypeError(
            f"{function}: expected code that never raises an exception, which no compiled kernel "
            "can pass on; got some that may (raise, assert, an index out of bounds)"
        )
    return code


def is_optimised() -> bool:
    """Whether LLVM removes what cannot happen; Numba's settings for debugging leave it in."""
    return int(config.OPT) >= 3 and not (config.BOUNDSCHECK or config.DEBUGINFO_DEFAULT)


def emit(
    python_function: Callable[..., Any], signature: Any, symbol: str, *, may_raise: bool
) -> bytes | None:
    """Compile a Python function behind a C signature; None where it may raise and must not."""
    flags = Flags()
    cpu_target.options.parse_as_flags(flags, {"nopython": True, "error_model": "numpy"})
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.forceinline = True  # into the exported function
    flags.no_compile = True  # first comes that function
    flags.enable_pyobject = False
    compiled = compile_extra(
        cpu_target.typing_context,
        cpu_target.target_context,
        python_function,
        args=signature.args,
        return_type=signature.return_type,
        flags=flags,
        locals={},
    )
    context, library = compiled.target_context, compiled.library
    module = library.create_ir_module("fastbp")
    result = context.get_value_type(signature.return_type)
    if signature.return_type == types.void:
        result = ir.VoidType()
    arguments = [context.get_value_type(kind) for kind in signature.args]
    exported = ir.Function(module, ir.FunctionType(result, arguments), symbol)
    builder = ir.IRBuilder(exported.append_basic_block())
    native = context.declare_function(module, compiled.fndesc)
    status, value = context.call_conv.call_function(
        builder, native, signature.return_type, signature.args, exported.args
    )
    if not may_raise:
        # When all is inlined, nothing is left of this call of a function that does not raise.
        raised = ir.Function(module, ir.FunctionType(ir.VoidType(), []), RAISED)
        with builder.if_then(status.is_error, likely=False):
            builder.call(raised, [])
    if signature.return_type == types.void:
        builder.ret_void()
    else:
        builder.ret(value)
    library.add_ir_module(module)
    return object_code(library, symbol)


def object_code(library: Any, symbol: str) -> bytes | None:
    """Link, optimise and emit a library of Numba's that is not finalised; None if it may raise.

    Numba's own way there keeps every helper function visible, under names that are only unique
    within a process: two objects from different processes could take each other's. Here all but
    one symbol is internal, which also lets LLVM drop what was inlined.
    """
    module = library._final_module
    for other in dict.fromkeys(library._linking_libraries):
        module.link_in(other._get_module_for_linking(), preserve=True)
    for member in (*module.functions, *module.global_variables):
        if not member.is_declaration and member.name != symbol:
            member.linkage = "internal"
    library._optimize_final_module()
    module.verify()
    code = bytes(library._codegen._tm.emit_object(module))
    return None if RAISED.encode() in code else code
