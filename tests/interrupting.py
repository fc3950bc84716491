"""Ctrl-C at random moments of trainings, and what the model is then: tests and a benchmark use it.

A child process trains; SIGINT goes to it at a random moment. The model it has then must be that of
a training which was stopped after a whole number of steps: the same steps are replayed here, one by
one, and the digest of the parameters is looked for among theirs. The child is this file::

    python tests/interrupting.py NAME

It trains once for each line that it reads, and answers each with a line of JSON.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import fastbp as fb
from fastbp.backends.choose import create_engine, geometry
from fastbp.backends.contract import Scalar, Status
from fastbp.backends.cpu import engine as engines
from fastbp.datasets import prepare_data
from fastbp.losses import Loss
from fastbp.plan import build_plan

EPOCHS = 100_000  # more than any child comes to


@dataclass(frozen=True)
class Case:
    """A training that is interrupted."""

    sizes: tuple
    rows: int
    batch_size: int
    threads: int = 1
    seconds: float = 0.15  # the moments lie within
    keywords: dict = field(default_factory=dict)
    has_callbacks: bool = False

    def data(self):
        """X and y."""
        rng = np.random.default_rng(3)
        X = rng.normal(size=(self.rows, self.sizes[0]))
        return X, np.sin(X[:, 0]) + 0.1 * rng.normal(size=self.rows)

    def model(self):
        """A model that was not trained."""
        return fb.Model(fb.mlp(*self.sizes, activation="tanh"), seed=4)

    def arguments(self):
        """Of `train`, but for the model, epochs and callbacks."""
        X, y = self.data()
        rest = {"batch_size": self.batch_size, "threads": self.threads, "seed": 5}
        return {"X": X, "y": y, **rest, **self.keywords}


SMALL, LARGE = (3, 16, 1), (20, 128, 128, 1)
WATCHED = {"validation": 0.25, "standardize": True, "patience": EPOCHS}
CASES = {
    "small batches": Case(SMALL, 5000, 16),
    "small batches in parallel": Case(SMALL, 5000, 16, threads=2),
    "large batches": Case(LARGE, 20_000, 1024, seconds=0.4),
    "large batches in parallel": Case(LARGE, 20_000, 1024, threads=2, seconds=0.4),
    "one batch an epoch": Case(SMALL, 40, 40),
    "short epochs, watched": Case(SMALL, 80, 20, keywords=WATCHED, has_callbacks=True),
    "short epochs, watched, in parallel": Case(
        SMALL, 80, 20, threads=2, keywords=WATCHED, has_callbacks=True
    ),
}


def digest(parameters):
    """Of an array's bytes."""
    return hashlib.sha256(parameters.tobytes()).hexdigest()


# The child.


def remember_engines(made):
    """Have every engine that is made put into a list, with its plan's purpose."""
    original = engines.Engine.__init__

    def remembering(self, plan, *arguments, **keywords):
        made.append((plan.purpose, self))
        original(self, plan, *arguments, **keywords)

    engines.Engine.__init__ = remembering


def train_until_interrupted(case):
    """Train; say what it is that ended training, when, and what the model is."""
    model, made = case.model(), []

    def callback(row, model):
        model.predict(np.zeros((1, case.sizes[0])))

    arguments = case.arguments()
    remember_engines(made)
    try:
        print("ready", flush=True)
        fb.train(
            model,
            epochs=EPOCHS,
            callbacks=[callback] if case.has_callbacks else (),
            **arguments,
        )
        ended = "nothing"
    except BaseException as error:
        ended = type(error).__name__
    caught = time.monotonic()
    training = [engine for purpose, engine in made if purpose == "train"]
    scalars = getattr(training[-1], "scalars", None) if training else None
    answer = {
        "ended": ended,
        "caught": caught,
        "digest": digest(model.parameters),
        "reached": 0 if scalars is None else int(scalars[Scalar.STEP]),
        "scaled": model.scaling is not None,
    }
    predicted = model.predict(arguments["X"][:5])
    fb.train(model, **{**arguments, "epochs": 1})  # it goes on, on the same workers
    return {**answer, "usable": bool(np.isfinite(predicted).all())}


def child(name):
    """Train for every line; the first training is whole, so that all is compiled."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    case = CASES[name]
    engines.PARALLEL_MULTIPLY_ADDS = 0
    model = case.model()
    fb.train(model, epochs=2, **case.arguments())
    model.predict(np.zeros((1, case.sizes[0])))
    print("begun", flush=True)
    original = engines.Engine.__init__
    for _ in sys.stdin:
        answer = train_until_interrupted(case)
        engines.Engine.__init__ = original
        print(json.dumps(answer), flush=True)


# The parent.


def replay(case, steps):
    """The steps after which the parameters have each digest, in a run of so many steps."""
    model, loss, optimizer = case.model(), Loss.resolve("mse"), fb.Adam()
    X, y = case.data()
    keywords = case.keywords
    training, _, _ = prepare_data(
        model, X, y, None, keywords.get("validation"), keywords.get("standardize", False), loss, 5
    )
    batch_rows = min(case.batch_size, training.rows)
    batches = -(-training.rows // batch_rows)
    shapes = geometry("cpu", model.network, model.dtype)
    plan = build_plan(
        model.network, "train", model.dtype, batch_rows, shapes, loss=loss, optimizer=optimizer
    )
    engine = create_engine(plan, "cpu", 1)
    engine.load_parameters(model.parameters)
    engine.bind("data.inputs", training.inputs)
    engine.bind("data.targets", training.targets)
    engine.bind("data.weights", None)
    found = {digest(model.parameters): 0}
    for step in range(steps):
        epoch, batch = divmod(step, batches)
        if batch == 0:
            engine.begin_epoch(
                training.rows,
                shuffle_seed=5 if batches > 1 else None,
                epoch=epoch,
                learning_rates=np.full(batches, optimizer.learning_rate),
            )
        assert engine.run(batch, batch + 1) == (Status.DONE, 1)
        engine.store_parameters(model.parameters)
        found[digest(model.parameters)] = step + 1
    return found


@dataclass(frozen=True)
class Trial:
    """What an interrupt did.

    Attributes
    ----------
    ended : str
        The name of the exception.
    seconds : float
        From sending the signal to catching the exception.
    step : int or None
        After which the parameters are those that the model has; None for a mixture.
    reached : int
        The steps that had been taken.
    agrees : bool
        Whether the model's scaling goes with its parameters, and it predicts finite numbers.
    """

    ended: str
    seconds: float
    step: int | None
    reached: int
    agrees: bool


def interrupt(name, trials, seed=0):
    """Interrupt a case at so many random moments; the trials."""
    case, rng = CASES[name], np.random.default_rng(seed)
    environment = {
        **os.environ,
        "NUMBA_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join([str(Path(fb.__file__).parents[1]), *sys.path[1:]]),
    }
    answers = []
    with subprocess.Popen(
        [sys.executable, __file__, name],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            for _ in range(trials):
                process.stdin.write("train\n")
                assert process.stdout.readline() == "ready\n"
                time.sleep(rng.uniform(0, case.seconds))
                sent = time.monotonic()
                process.send_signal(signal.SIGINT)
                answers.append((sent, json.loads(process.stdout.readline())))
            process.stdin.close()
            assert process.wait(30) == 0
        finally:
            process.kill()
    steps = replay(case, max(answer["reached"] for _, answer in answers))
    found = []
    for sent, answer in answers:
        step = steps.get(answer["digest"])
        should_be_scaled = bool(case.keywords.get("standardize")) and step != 0
        agrees = answer["usable"] and answer["scaled"] == should_be_scaled
        seconds = answer["caught"] - sent
        found.append(Trial(answer["ended"], seconds, step, answer["reached"], agrees))
    return found


def interrupt_all(trials=100, seed=0):
    """So many interrupts of each case, by its name."""
    return {name: interrupt(name, trials, seed) for name in CASES}


if __name__ == "__main__":
    child(sys.argv[1])
