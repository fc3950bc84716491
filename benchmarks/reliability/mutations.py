"""Files that were damaged or forged: refused, or the same content, in little memory."""

from __future__ import annotations

import contextlib
import functools
import random
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import fastbp as fb
from benchmarks.reliability.shares import in_shares
from benchmarks.reliability.subjects import Outcome, Request, find_tests
from fastbp.checkpoint import RunFile, read_run_file, write_run_file
from fastbp.files import previous_of

__all__ = ["check"]

CASES, RESUMED = 20_000, 2_000
SHARE, PLACES_SHARE, RESUMED_SHARE = 1000, 200, 250
LARGE_EVERY = 20  # one in so many cases is a large file
DTYPES = ("float32", "float64")
RANGES = (1, 8, 64)  # bytes that are left out at every place
SLACK = 200_000  # bytes besides twice the file: the interpreter's own, whatever the file's size

METHOD = f"""\
{CASES:,} random changes of a model's file and of a run's checkpoint, in float32 and float64; one
in {LARGE_EVERY} of these is large (240 KB to 1.5 MB). `tests/mutations.py` makes them: damage to
bytes, to the header's length, to the tensors that it describes and to its JSON; and forgeries,
which have a right SHA-256 and say what they like. A damaged file has to be refused with
CheckpointError or be the same to the bit (a blank more in the header); a forged one may say
something else. The smallest model and checkpoint are also cut off at every length, begun at every
byte, read without {", ".join(map(str, RANGES))} bytes at every place, and with every single bit
flipped. While a file is read, tracemalloc sees at most twice its size, and {SLACK // 1000} kB
that Python needs for any file. Last, {RESUMED:,} trainings are resumed from forged checkpoints,
in which single numbers are changed too: each is refused, or goes on from what the file says."""


@dataclass
class Source:
    """A file, and how it is read: to something that compares equal for the same content."""

    name: str
    content: bytes
    load: Callable[[Path], Any]
    parts: Callable[[Any], Any]
    peak: int = 0  # bytes, of the last time

    def read(self, path: Path) -> Any:
        """Load with an eye on memory, and take apart."""
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            found = self.load(path)
        finally:
            self.peak = tracemalloc.get_traced_memory()[1] - before
        return self.parts(found)


def source_of_model(folder: Path, model: fb.Model) -> Source:
    """The file of a model."""
    from test_checkpoint_files import model_parts

    model.save(folder / "model")
    content = (folder / "model").read_bytes()
    return Source(f"model in {model.dtype}", content, fb.load, model_parts)


def source_of_run(folder: Path, content: RunFile) -> Source:
    """The checkpoint of a run."""
    from test_checkpoint_files import parts

    write_run_file(folder / "run", content)
    name = f"checkpoint in {content.model.dtype}"
    return Source(name, (folder / "run").read_bytes(), read_run_file, parts)


class Cut(Exception):
    """What ends a training in the middle."""


def train(path: Path, dtype: str, cut_at: int | None = None) -> bytes:
    """A training of four epochs that resumes; the bytes of its parameters."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    model = fb.Model(fb.mlp(3, 4, 1, activation="tanh"), dtype=dtype, seed=1)

    def cut(row: Any, _: fb.Model) -> None:
        if row["epoch"] == cut_at:
            raise Cut

    fb.train(
        model,
        X,
        np.sin(X[:, 0]),
        epochs=4,
        batch_size=8,
        validation=0.2,
        standardize=True,
        patience=4,
        threads=1,
        checkpoint=fb.Checkpoint(path, every_epochs=1),
        resume=True,
        callbacks=[cut],
    )
    return model.parameters.tobytes()


def resumed(path: Path, dtype: str) -> Any:
    """What comes of going on from a file: parameters, or a loss that runs away."""
    Path(previous_of(path)).unlink(missing_ok=True)
    try:
        return train(path, dtype)
    except fb.DivergenceError:
        return "diverged"


def checkpoint_of_training(folder: Path, dtype: str) -> RunFile:
    """A checkpoint after two epochs, without the times, which are never the same."""
    path = folder / f"training {dtype}"
    with contextlib.suppress(Cut):
        train(path, dtype, cut_at=3)
    content = read_run_file(path)
    content.notes |= {"seconds": 0.5, "training_seconds": 0.25}
    content.tensors["history.seconds"][:] = 0.125
    return content


@functools.cache
def sources(kind: str) -> list[Source]:
    """The files that are changed: the ``small`` ones, the ``large`` ones or the ``smallest``."""
    find_tests()
    from test_checkpoint_damage import small_run
    from test_checkpoint_files import model_file

    found = []
    with tempfile.TemporaryDirectory(prefix="fastbp-mutations-") as name:
        folder = Path(name)
        for dtype in DTYPES:
            network = {"small": model_file().network, "large": fb.mlp(200, 300, 1)}
            model = fb.Model(network.get(kind, fb.mlp(1, 1)), dtype, seed=4)
            if kind == "small":
                model.scaling, model.metadata = model_file().scaling, {"columns": ["a", 1]}
                run = checkpoint_of_training(folder, dtype)
            else:
                run = small_run(dtype)
            if kind == "large":
                run.model.network, run.model.tensors = model.network, dict(model.weights)
                flat = np.linspace(-1, 1, model.parameters.size, dtype=dtype)
                run.tensors = {"first": flat, "second": flat}
            found += [source_of_model(folder, model), source_of_run(folder, run)]
    return found


@dataclass
class Found:
    """What came of some changed files."""

    outcomes: Counter[tuple[str, str]]
    wrong: list[str]
    of_size: float = 0.0  # the most memory, by the size of the file, of large ones
    beyond: int = 0  # the most bytes beyond twice the size, of all

    def add(self, other: Found) -> None:
        """What came of others."""
        self.outcomes += other.outcomes
        self.wrong += other.wrong
        self.of_size = max(self.of_size, other.of_size)
        self.beyond = max(self.beyond, other.beyond)


# The file's source, the kind of change, which one, the content, whether it may say something else.
Change = tuple[Source, str, str, bytes, bool]


def read_changed(changes: Iterator[Change], slack: float = SLACK) -> Found:
    """Read changed files, in at most so many bytes besides twice their size."""
    from mutations import OUTCOMES, outcome_of

    found = Found(Counter(), [])
    wholes: dict[int, Any] = {}
    if slack < np.inf:
        tracemalloc.start()
    try:
        with tempfile.TemporaryDirectory(prefix="fastbp-mutations-") as name:
            path = Path(name) / "file"
            for source, kind, number, content, may_differ in changes:
                if id(source) not in wholes:
                    path.write_bytes(source.content)
                    wholes[id(source)] = source.read(path)
                outcome = outcome_of(path, content, source.read, wholes[id(source)])
                where = f"{source.name}, {kind}, {number}"
                if outcome not in OUTCOMES or (outcome == "other" and not may_differ):
                    found.wrong.append(f"{where}: {outcome}"[:300])
                beyond = source.peak - 2 * len(content)
                if beyond > slack:
                    found.wrong.append(f"{where}: {source.peak} bytes for {len(content)}")
                if len(content) > SLACK:
                    found.of_size = max(found.of_size, source.peak / len(content))
                found.beyond = max(found.beyond, beyond)
                found.outcomes[kind, outcome if outcome in OUTCOMES else "wrong"] += 1
    finally:
        tracemalloc.stop()
    return found


def in_words(name: str) -> str:
    """The name of a function as words."""
    return name.replace("_", " ")


def some_mutations(first: int, last: int, seed: int) -> Found:
    """Random changes, each by its own number."""
    small, large = sources("small"), sources("large")
    from mutations import DAMAGES, mutate

    def changes() -> Iterator[Change]:
        for number in range(first, last):
            files = large if number % LARGE_EVERY == LARGE_EVERY - 1 else small
            source = files[number // 5 % len(files)]
            content, kind = mutate(source.content, random.Random(f"{seed} {number}"))
            yield source, in_words(kind.__name__), f"case {number}", content, kind not in DAMAGES

    return read_changed(changes())


def places() -> list[tuple[Source, int]]:
    """Every place of the smallest files."""
    return [(each, place) for each in sources("smallest") for place in range(len(each.content))]


def some_places(of: int, first: int, last: int, seed: int) -> Found:
    """Every change at some places; `of` is how many places there are in all, fewer than all."""
    every = places()

    def changes() -> Iterator[Change]:
        for number in range(first, last):
            source, place = every[number * len(every) // of]
            content, where = source.content, f"byte {place}"
            yield source, "cut off at a byte", where, content[:place], False
            if place:
                yield source, "begun at a byte", where, content[place:], False
            for length in RANGES:
                rest = content[:place] + content[place + length :]
                yield source, f"without a range of {length}", where, rest, False
            for bit in range(8):
                changed = bytearray(content)
                changed[place] ^= 1 << bit
                yield source, "a single bit", f"{where}, bit {bit}", bytes(changed), False

    return read_changed(changes())


def some_resumed(first: int, last: int, seed: int) -> Found:
    """Trainings that go on from forged checkpoints."""
    checkpoints = [each for each in sources("small") if each.name.startswith("checkpoint")]
    from mutations import LIES, mutate

    runs = [
        replace(each, load=functools.partial(resumed, dtype=dtype), parts=lambda found: found)
        for each, dtype in zip(checkpoints, DTYPES, strict=True)
    ]

    def changes() -> Iterator[Change]:
        for number in range(first, last):
            source = runs[number % len(runs)]
            content, kind = mutate(source.content, random.Random(f"{seed} {number} resumed"), LIES)
            yield source, f"resumed: {in_words(kind.__name__)}", f"case {number}", content, True

    return read_changed(changes(), slack=np.inf)  # a training has memory of its own


def check(request: Request) -> Outcome:
    """20,000 mutated files and every place of the smallest, or as many as the scale says."""
    of_places = request.count(len(places()))
    parts: list[tuple[Callable[[int, int, int], Found], int, int]] = [
        (some_mutations, request.count(CASES), SHARE),
        (functools.partial(some_places, of_places), of_places, PLACES_SHARE),
        (some_resumed, request.count(RESUMED), RESUMED_SHARE),
    ]
    read, resuming = Found(Counter(), []), Found(Counter(), [])
    for function, count, share in parts:
        into = resuming if function is some_resumed else read
        for found in in_shares(function, count, share, request):
            into.add(found)
    outcomes = read.outcomes + resuming.outcomes
    kinds = sorted({kind for kind, _ in outcomes}, key=lambda kind: ("resumed" in kind, kind))
    names = ("refused", "same", "other")
    table = {kind: {name: outcomes[kind, name] for name in names} for kind in kinds}
    rows = [
        f"| {kind} | {' | '.join(f'{n:,}' for n in row.values())} |" for kind, row in table.items()
    ]
    wrong = sorted(read.wrong + resuming.wrong)
    refused = sum(row["refused"] for row in table.values())
    return Outcome(
        promise="A damaged file is refused with CheckpointError, in no more memory than twice its "
        "size; a forged one is refused or believed, and nothing else happens.",
        cases=sum(outcomes.values()),
        unit="changed files",
        result=f"{refused:,} refused, {len(wrong)} wrong; large ones took at most "
        f"{read.of_size:.2f} times their size",
        method=METHOD,
        lines=[
            "| change | refused | same content | other content |",
            "| --- | ---: | ---: | ---: |",
            *rows,
            "",
            f"- memory: of large files at most {read.of_size:.2f} times the size; of all at most "
            f"{max(read.beyond, 0):,} bytes more than twice the size",
        ],
        figures={
            "changes": table,
            "memory": {"of_size": read.of_size, "bytes_beyond_twice": read.beyond},
            "wrong": len(wrong),
        },
        broken=wrong[:20] + ([f"and {len(wrong) - 20} more"] if len(wrong) > 20 else []),
    )
