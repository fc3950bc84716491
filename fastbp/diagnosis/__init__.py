"""What is wrong with a network, its data or its settings, before time is spent on training."""

from fastbp.diagnosis.examine import diagnose
from fastbp.diagnosis.report import Diagnosis, Finding, LayerReport

__all__ = ["Diagnosis", "Finding", "LayerReport", "diagnose"]
