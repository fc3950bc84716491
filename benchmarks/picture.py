"""A result as a picture: how many times as fast as the faster of JAX and PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.summary import summarize
from benchmarks.workloads import WORKLOADS

__all__ = ["draw"]

COLORS = {1: "#1f6f8b", 2: "#e07a3f"}
HEIGHT = 0.36  # of a bar; two and a gap make one row


def draw(result: dict[str, Any], path: Path) -> None:
    """Grouped bars on a logarithmic axis, with a mark where each goal is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(result["workloads"])
    threads = result["settings"]["threads"]
    figure, axes = pyplot.subplots(figsize=(8.6, 1.7 + 0.58 * len(names)), layout="constrained")
    largest, smallest = 2.0, 0.8
    for place, count in enumerate(threads):
        shift = (place - (len(threads) - 1) / 2) * HEIGHT
        label = f"{count} thread{'s' if count > 1 else ''}"
        for row, name in enumerate(names):
            ratio = summarize(result["workloads"][name], count)["ratio"]
            goal = WORKLOADS[name].goal
            largest = max(largest, goal, ratio or 0.0)
            if ratio is None:
                axes.text(
                    1.03, row + shift, "not measured", va="center", fontsize=8, color="#777777"
                )
                continue
            smallest = min(smallest, ratio)
            bar = {"height": 0.92 * HEIGHT, "color": COLORS.get(count, "#777777"), "zorder": 2}
            axes.barh(row + shift, ratio - 1, left=1, label=label, **bar)
            label = None
            axes.annotate(
                f"{ratio:.2f}",
                (ratio, row + shift),
                xytext=(4 if ratio >= 1 else -4, 0),
                textcoords="offset points",
                va="center",
                ha="left" if ratio >= 1 else "right",
                fontsize=8,
                zorder=4,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
            )
    for row, name in enumerate(names):
        extent = [row - 0.42, row + 0.42]
        label = "goal" if row == 0 else None
        axes.plot([WORKLOADS[name].goal] * 2, extent, color="#222222", lw=2, label=label, zorder=3)
    axes.axvline(1, color="#222222", lw=0.8)
    axes.set_xscale("log")
    axes.set_xlim(0.75 * smallest, 1.4 * largest)
    ticks = [
        t for t in (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50) if smallest * 0.75 <= t <= largest * 1.4
    ]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    descriptions = [f"{name}\n{result['workloads'][name]['description']}" for name in names]
    axes.set_yticks(range(len(names)), descriptions, fontsize=8)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.grid(axis="x", color="#dddddd", lw=0.7, zorder=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("training speed, as a multiple of the faster of JAX and PyTorch\n"
                    "(each with as many threads)")  # fmt: skip
    machine = result["machine"]
    axes.set_title(f"fastbp on {machine['processor']}, {machine['date']}", fontsize=10, loc="left")
    figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
