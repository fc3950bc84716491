"""Layers: one file a kind."""

from fastbp.layers.base import Layer, ParameterSpec, Place, places_of
from fastbp.layers.dense import Dense

__all__ = ["Dense", "Layer", "ParameterSpec", "Place", "places_of"]
