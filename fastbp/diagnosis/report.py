"""What a diagnosis says, as text and as data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from fastbp.registry import Named
from fastbp.text import table, without_nan

__all__ = ["Diagnosis", "Finding", "LayerReport"]


@dataclass(frozen=True)
class Finding:
    """A trouble and its remedy.

    Attributes
    ----------
    trouble : str
        One of ``"wrong_loss"``, ``"unscaled_inputs"``, ``"unscaled_targets"``,
        ``"exploding_gradients"``, ``"vanishing_gradients"``, ``"saturated_units"``,
        ``"dead_units"``, ``"learning_rate_too_high"``, ``"learning_rate_too_low"``.
    message : str
        What it is, with the numbers behind it.
    remedy : str
        What helps.
    layer : str or None
        Where it is, by the name in `Network.members`.
    numbers : dict of str to float
        Those of the message.
    arguments : dict
        Of `fastbp.train`, for the remedies that are arguments of it.
    """

    trouble: str
    message: str
    remedy: str
    layer: str | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.trouble.replace('_', ' ')}: {self.message} {self.remedy}"


@dataclass(frozen=True)
class LayerReport:
    """A layer as the sample of rows sees it; NaN where a number makes no sense.

    Attributes
    ----------
    name, label : str
        As in `Network.members`, and in words.
    gradient_norm, parameter_norm : float
        Of its parameters.
    dead_share : float
        Of its units, those that are idle in every row (relu family).
    saturated_share : float
        Of its outputs, those where the derivative is below 5% of its maximum (tanh, sigmoid and
        their kind).
    """

    name: str
    label: str
    gradient_norm: float
    parameter_norm: float
    dead_share: float
    saturated_share: float


@dataclass(frozen=True)
class Diagnosis:
    """What `fastbp.diagnose` found.

    Attributes
    ----------
    findings : tuple of Finding
        Causes before their consequences; empty for a network that nothing was found about.
    layers : tuple of LayerReport
    rows, rows_seen : int
        Of the data, and of the sample that was looked at.
    loss, constant_loss : float
        Of the sample, and the least that a constant output has on it.
    gradient_norm, parameter_norm : float
    learning_rate : float
        Of the optimizer.
    best_learning_rate : float
        At which the loss is lowest along the optimizer's step, from its curvature; NaN where that
        is not known, infinite where the loss does not bend upwards.
    """

    findings: tuple[Finding, ...]
    layers: tuple[LayerReport, ...]
    rows: int
    rows_seen: int
    loss: float
    constant_loss: float
    gradient_norm: float
    parameter_norm: float
    learning_rate: float
    best_learning_rate: float

    @property
    def is_healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        rows = [
            (
                layer.name,
                layer.label,
                number(layer.gradient_norm),
                number(layer.parameter_norm),
                share(layer.dead_share),
                share(layer.saturated_share),
            )
            for layer in self.layers
        ]
        header = ("", "layer", "gradient norm", "parameter norm", "dead", "saturated")
        lines = [
            f"{self.rows_seen:,} of {self.rows:,} rows: loss {self.loss:.4g} (the best constant "
            f"output has {self.constant_loss:.4g}), gradient norm {self.gradient_norm:.3g}",
            *table(header, rows),
        ]
        if not math.isnan(self.best_learning_rate):
            lines.append(
                f"learning rate {self.learning_rate:.2g}; by the curvature along the step the best "
                f"is {self.best_learning_rate:.2g}"
            )
        lines += [f"- {finding}" for finding in self.findings]
        if self.is_healthy:
            lines.append("No trouble found.")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data; what is not finite becomes None."""
        described = dataclasses.asdict(dataclasses.replace(self, findings=()))
        described["layers"] = list(described["layers"])
        described["is_healthy"] = self.is_healthy
        described["findings"] = [
            {
                **{item.name: getattr(finding, item.name) for item in dataclasses.fields(finding)},
                "arguments": {
                    name: value.describe() if isinstance(value, Named) else value
                    for name, value in finding.arguments.items()
                },
            }
            for finding in self.findings
        ]
        plain: dict[str, Any] = without_nan(described)
        return plain


def number(value: float) -> str:
    """Three digits, or nothing where it makes no sense."""
    return "" if math.isnan(value) else f"{value:.3g}"


def share(value: float) -> str:
    """In per cent, or nothing where it makes no sense."""
    return "" if math.isnan(value) else f"{100 * value:.0f}%"
