"""Compiled functions that packages with different faults have in common.

Kernels that other processes compiled from the same lines are taken from the cache, whatever else
has been edited: a compiled function is known by the files that its factory imports and by the text
of its law. Were that wrong, an old kernel would make a fault look missed, never found.
"""

import ast
import functools
import hashlib
import inspect
from pathlib import Path

import fastbp as fb
from fastbp.backends.cpu import machine_code

PACKAGE = Path(fb.__file__).parent
FOLLOWED = (
    "fastbp.backends.cpu",
    "fastbp.backends.contract",
    "fastbp.elementary",
    "fastbp.shuffle",
)
COMPILING = ("backends/cpu/compiler.py", "backends/cpu/elementary", "elementary.py")


@functools.cache
def syntax(module):
    """The file of a module of the package, read; None for what is no module."""
    path = PACKAGE.parent / (module.replace(".", "/") + ".py")
    return ast.parse(path.read_text(encoding="utf-8")) if path.exists() else None


@functools.cache
def imported(module):
    """The modules that a kernel's text may depend on, itself among them."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in found or not name.startswith(FOLLOWED) or syntax(name) is None:
            continue
        found.add(name)
        for node in ast.walk(syntax(name)):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
    return frozenset(found)


@functools.cache
def home_of(factory):
    """The module that defines a factory of compiled functions."""
    for path in sorted((PACKAGE / "backends" / "cpu").rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if any(getattr(node, "name", "") == factory for node in syntax(module).body):
            return module
    return "fastbp.backends.cpu.compiler"  # made there: its own text is in every digest


@functools.cache
def digest_of(factory):
    """A digest of the files that a factory depends on."""
    modules = {module.replace(".", "/") + ".py" for module in imported(home_of(factory))}
    files = {PACKAGE.parent / name for name in modules}
    for name in COMPILING:
        path = PACKAGE / name
        files |= set(path.glob("*.py")) if path.is_dir() else {path}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def share_kernels():
    """Let processes with different edits use the same cache."""
    machine_code.digest_of_sources = lambda: "faults"
    key = machine_code.key_of

    def key_of(function):
        text = "" if function.law is None else inspect.getsource(function.law)
        return machine_code.key_from(key(function), digest_of(function.name), text)

    machine_code.key_of = key_of
