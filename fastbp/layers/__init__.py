"""Layers: one file a kind."""

from fastbp.layers.base import Layer, ParameterSpec
from fastbp.layers.dense import Dense

__all__ = ["Dense", "Layer", "ParameterSpec"]
