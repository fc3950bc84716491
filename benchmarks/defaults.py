"""The measurements behind the defaults of ``fastbp train``: ``python -m benchmarks.defaults``.

Test RMSE on California housing for four seeds, which also choose the test rows, exactly as the
command line splits and trains. Prints a Markdown table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import fastbp as fb
from fastbp.commands.train import TEST_SEED
from fastbp.datasets import split_rows
from fastbp.tables import read_table

DATA = Path(__file__).parents[1] / "examples" / "data" / "california_housing.csv.gz"
SEEDS = (0, 1, 2, 3)
# Layers, learning rate, weight decay, clip norm.
SETTINGS = [
    ((128, 64), 0.005, 0.01, None),
    ((128, 64), 0.005, 0.03, None),
    ((128, 128), 0.005, 0.03, None),
    ((256, 128), 0.005, 0.03, None),
    ((256, 128), 0.005, 0.05, 1.0),
    ((256, 128), 0.005, 0.05, 0.3),
    ((256, 128), 0.003, 0.05, 0.3),
    ((128, 128), 0.005, 0.05, 0.3),
]


def test_rmse(X, y, seed, layers, learning_rate, weight_decay, clip_norm):
    """Train as the command line does; return the test RMSE."""
    train_rows, test_rows = split_rows(len(X), 0.2, seed + TEST_SEED)
    model = fb.Model(fb.mlp(X.shape[1], *layers, 1), seed=seed)
    fb.train(
        model,
        X[train_rows],
        y[train_rows],
        optimizer=fb.AdamW(learning_rate, weight_decay=weight_decay),
        schedule=fb.OneCycle(),
        epochs=100,
        batch_size=64,
        validation=0.1,
        standardize=True,
        patience=50,
        clip_norm=clip_norm,
        seed=seed,
    )
    errors = model.predict(X[test_rows])[:, 0] - y[test_rows]
    return float(np.sqrt(np.mean(errors**2)))


def main():
    """The table."""
    table = read_table(DATA)
    names = [name for name in table.columns if name != "MedHouseVal"]
    X, y = table.numbers(names), table.columns["MedHouseVal"]
    print("| layers | learning rate | weight decay | clip norm | mean | worst |")
    print("|---|---|---|---|---|---|")
    for layers, rate, decay, clip in SETTINGS:
        found = [test_rmse(X, y, seed, layers, rate, decay, clip) for seed in SEEDS]
        cells = (
            ",".join(map(str, layers)),
            rate,
            decay,
            clip or "none",
            f"{np.mean(found):.3f}",
            f"{max(found):.3f}",
        )
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
