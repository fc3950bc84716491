"""The architecture, held by machine: who imports whom, docstrings, file sizes, no pickle."""

import ast
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastbp as fb

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastbp"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# A room may import from its own floor and from those below it.
FLOORS = [
    {"errors", "elementary", "registry", "files", "sizes", "text", "tensor_file", "turns"},
    {
        "activations",
        "losses",
        "optimizers",
        "schedules",
        "initializers",
        "shuffle",
        "masks",
        "metrics",
        "tables",
    },
    {"arrays", "layers", "progress"},
    {"network", "scaling", "class_weights"},
    {"result"},
    {"backends.contract"},
    {"plan"},
    {
        "backends",
        "backends.choose",
        "backends.compilation",
        "backends.cpu",
        "backends.cuda",
        "backends.layout",
        "backends.object_cache",
    },
    {"engines", "layer_statistics"},
    {"model_file"},
    {"checkpoint"},
    {"derivatives"},
    {"model"},
    {"datasets", "divergence", "monitoring", "warmup", "complex_step", "gradient_checks"},
    {"settings"},
    {"run_engines", "run_state"},
    {"epochs", "learning_rate"},
    {"training"},
    {"diagnosis"},
    {"commands"},
    {"cli", "__main__", "__init__"},
]


def floor(module):
    parts = module.split(".")
    for length in (2, 1):
        name = ".".join(parts[:length])
        for height, names in enumerate(FLOORS):
            if name in names:
                return height
    raise AssertionError(f"{module} is on no floor")


def module_of(path):
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(path):
    """(module, whether it is imported for type checkers alone)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        hidden = id(node) in typing_only
        if isinstance(node, ast.Import):
            yield from ((alias.name, hidden) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((f"{node.module}.{alias.name}", hidden) for alias in node.names)


# Who may import what compiles, and the bindings of a driver.
OUTSIDE = {
    "numba": ["backends.cpu"],
    "llvmlite": ["backends.cpu"],
    "numba_cuda_mlir": ["backends.cuda.compiler"],
    "cuda": ["backends.cuda"],
}
BACKENDS = ("backends.cpu", "backends.cuda")


def is_in(module, package):
    return f"{module}.".startswith(f"{package}.")


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_downward_and_compilers_stay_in_their_backends(path):
    module = module_of(path)
    for name, hidden in imports(path):
        top = name.split(".")[0]
        if top in OUTSIDE:
            assert any(is_in(module, room) for room in OUTSIDE[top]), f"{module} imports {name}"
        if top != "fastbp" or hidden or module == "__init__":
            continue
        target = name.removeprefix("fastbp").removeprefix(".")
        if not target or target in {"elementary", "masks", "shuffle"}:
            continue
        for backend in BACKENDS:
            if is_in(target, backend) and not is_in(module, backend):
                assert module == "backends.choose", f"{module} imports {name}"
        assert floor(target) <= floor(module), f"{module} imports {name}"


# What may run without Numba, which takes longer to import than a short training.
RUNNING = ["buffers", "engine", "job", "machine_code", "pace", "prediction", "processor"]
RUNNING += ["state", "tuning", "workers"]


def test_what_runs_imports_nothing_that_compiles():
    """Of the CPU's rooms: none of the running ones imports one that imports Numba."""
    rooms = {path.stem: path for path in (PACKAGE / "backends" / "cpu").glob("*.py")}
    with_numba = {
        stem
        for stem, path in rooms.items()
        if any(name.split(".")[0] == "numba" for name, _ in imports(path))
    }
    assert {"compiler", "driver", "dense"} <= with_numba
    assert set(rooms) - with_numba - {"__init__", "vectors"} == set(RUNNING)
    for stem in RUNNING:
        tree = ast.parse(rooms[stem].read_text(encoding="utf-8"))
        for node in tree.body:  # imports inside functions are taken on a miss only
            if isinstance(node, ast.ImportFrom) and is_in(f"{node.module}", "fastbp.backends.cpu"):
                parts = {node.module.split(".")[-1], *(alias.name for alias in node.names)}
                assert not parts & with_numba, f"{stem} imports {parts & with_numba}"


# The compiler, and what gives words their meaning with what it has.
COMPILERS = {f"backends.cuda.{room}_words" for room in ("elementary", "grid", "tensor")}
COMPILERS |= {"backends.cuda.compiler"}


def test_importing_the_cuda_rooms_imports_neither_their_compiler_nor_the_driver():
    """But for the compiler's own: kernels, code from the cache and the simulator need neither."""
    rooms = {module_of(path) for path in (PACKAGE / "backends" / "cuda").glob("*.py")}
    modules = sorted(f"fastbp.{room}" for room in rooms - COMPILERS)
    check = "import sys; assert not {'numba', 'numba_cuda_mlir', 'cuda'} & set(sys.modules)"
    command = [sys.executable, "-c", f"import {', '.join(modules)}; {check}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_no_file_is_two_rooms_and_none_says_nothing(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))


def test_neither_is_any_file_of_tests_and_benchmarks():
    long = [
        path
        for folder in ("tests", "benchmarks", "examples")
        for path in (ROOT / folder).rglob("*.py")
        if len(path.read_text(encoding="utf-8").splitlines()) > 400
    ]
    assert long == []


FORBIDDEN = {"pickle", "cPickle", "_pickle", "dill", "marshal", "shelve", "joblib", "cloudpickle"}
EXECUTING = {"eval", "exec", "compile", "__import__", "execfile"}


def dangers(tree):
    """Lines of a module that could run what a file says, or compile with unsafe mathematics."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            if {name.split(".")[0] for name in names} & FORBIDDEN:
                yield node.lineno
        if isinstance(node, ast.Name) and node.id in EXECUTING:
            yield node.lineno
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called.startswith("builtins.") or called.endswith(("read_pickle", ".exec_module")):
            yield node.lineno
        imported = getattr(node.args[0], "value", "") if called.endswith("import_module") else ""
        if str(imported).split(".")[0] in FORBIDDEN:
            yield node.lineno
        given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
        if given.get("fastmath", False) is True:
            yield node.lineno
        # NumPy's readers of files: said in words, and not by position.
        reads = called in {"np.load", "numpy.load"} or called.endswith("format.read_array")
        if reads and (given.get("allow_pickle") is not False or len(node.args) > 1):
            yield node.lineno
        if "allow_pickle" in given and given["allow_pickle"] is not False:
            yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_no_pickle_no_eval_no_unsafe_fastmath(path):
    assert list(dangers(ast.parse(path.read_text(encoding="utf-8")))) == []


# Text that the check has to find all of; none of it is run.
DANGEROUS = """
import pickle
from marshal import loads
import joblib.numpy_pickle
eval("1")
run = exec
__import__("os")
builtins.exec("1")
importlib.import_module("pickle")
np.load("file")
np.load("file", None, False)
np.load("file", allow_pickle=True)
np.load("file", allow_pickle=value)
np.lib.format.read_array(file)
read(allow_pickle=value)
pandas.read_pickle("file")
numba.njit(fastmath=True)
"""


def test_dangers_are_seen():
    assert set(dangers(ast.parse(DANGEROUS))) == set(range(2, 18))
    harmless = 're.compile("x")\nnp.load("file", allow_pickle=False)\nimportlib.import_module(name)'
    assert list(dangers(ast.parse(harmless))) == []


PUBLIC = [name for name in dir(fb) if not name.startswith("_")]


def public_callables():
    for name in PUBLIC:
        value = getattr(fb, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value
            if inspect.isclass(value) and value.__module__ in {"fastbp.model", "fastbp.network"}:
                for key, member in inspect.getmembers(value, inspect.isfunction):
                    if not key.startswith("_"):
                        yield f"{name}.{key}", member


CALLABLES = dict(public_callables())


@pytest.mark.parametrize("name", CALLABLES)
def test_every_public_name_has_a_docstring(name):
    assert (CALLABLES[name].__doc__ or "").strip()


def documented_parameters(docstring):
    """Names under ``Parameters``, in order; None where there is no such section."""
    match = re.search(r"\n *Parameters\n *-+\n(.*?)(?=\n *\w+\n *-+\n|\Z)", docstring, re.DOTALL)
    if not match:
        return None
    lines = inspect.cleandoc("\n" + match.group(1)).splitlines()
    names = [line.split(" : ")[0] for line in lines if line and not line.startswith(" ")]
    return [part.strip().lstrip("*") for entry in names for part in entry.split(",")]


def kernel_functions():
    has_cuda = importlib.util.find_spec("numba_cuda_mlir") is not None
    for path in SOURCES:
        name = module_of(path)
        is_left_out = path.stem in {"__main__", "__init__"} or (name in COMPILERS and not has_cuda)
        module = None if is_left_out else importlib.import_module(f"fastbp.{name}")
        for value in vars(module).values() if module else ():
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                yield f"{module.__name__}.{value.__name__}", value


FUNCTIONS = {**CALLABLES, **dict(kernel_functions())}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_and_signatures_agree(name):
    value = FUNCTIONS[name]
    documented = documented_parameters(value.__doc__ or "")
    if documented is None:
        return
    parameters = [p for p in inspect.signature(value).parameters if p != "self"]
    if name == "Model":
        assert documented == ["network", "dtype", "seed"]
    else:
        assert documented == parameters


def test_functions_that_users_call_document_parameters_results_and_errors():
    for name in (
        "train",
        "mlp",
        "load",
        "Model.predict",
        "Model.loss",
        "Model.loss_and_gradient",
        "Model.vjp",
        "Model.jacobian",
        "Model.input_gradient",
    ):
        text = CALLABLES[name].__doc__
        for section in ("Parameters", "Returns", "Raises"):
            assert f"{section}\n" in text, (name, section)


def test_the_promised_public_names():
    promised = (
        "Network mlp Dense Dropout LayerNorm Residual Model train TrainResult load devices SGD RMSprop Adagrad Adadelta Rprop "
        "Adam AdamW Adamax NAdam RAdam Lion Huber Quantile LeakyRelu Constant StepDecay "
        "ExponentialDecay CosineDecay WarmupCosine OneCycle ReduceOnPlateau DivergenceError "
        "CheckpointError DeviceError Checkpoint"
    ).split()
    assert set(promised) <= set(PUBLIC)


def test_settings_have_the_promised_order_and_defaults():
    signatures = {
        "SGD": "learning_rate=0.01, momentum=0.0, nesterov=False",
        "RMSprop": "learning_rate=0.01, rho=0.99, momentum=0.0, centered=False, epsilon=1e-08",
        "Adagrad": "learning_rate=0.01, epsilon=1e-10",
        "Adadelta": "learning_rate=1.0, rho=0.9, epsilon=1e-06",
        "Rprop": "learning_rate=0.01, increase=1.2, decrease=0.5, minimum=1e-06, maximum=50.0",
        "Adam": "learning_rate=0.001, beta1=0.9, beta2=0.999, epsilon=1e-08, amsgrad=False",
        "AdamW": "learning_rate=0.001, beta1=0.9, beta2=0.999, epsilon=1e-08, amsgrad=False, "
        "weight_decay=0.01",
        "Adamax": "learning_rate=0.002, beta1=0.9, beta2=0.999, epsilon=1e-08",
        "NAdam": "learning_rate=0.002, beta1=0.9, beta2=0.999, epsilon=1e-08, momentum_decay=0.004",
        "RAdam": "learning_rate=0.001, beta1=0.9, beta2=0.999, epsilon=1e-08",
        "Lion": "learning_rate=0.0001, beta1=0.9, beta2=0.99, weight_decay=0.0",
        "BinaryCrossEntropy": "label_smoothing=0.0",
        "CrossEntropy": "label_smoothing=0.0",
        "Huber": "delta=1.0",
        "Quantile": "quantile=0.5",
        "LayerNorm": "epsilon=1e-05",
    }
    for name, expected in signatures.items():
        parameters = inspect.signature(getattr(fb, name)).parameters.values()
        assert ", ".join(f"{p.name}={p.default}" for p in parameters) == expected


def test_the_repository_speaks_of_fastbp_alone():
    """No absolute paths in what users read."""
    for path in [*SOURCES, *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(work|home|root|tmp)/", text), path
