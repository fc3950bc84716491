"""Layers: one file a kind."""

from fastbp.layers.base import (
    Layer,
    ParameterSpec,
    Place,
    checked_layers,
    layers_from,
    places_of,
)
from fastbp.layers.dense import Dense
from fastbp.layers.dropout import Dropout
from fastbp.layers.layer_norm import LayerNorm
from fastbp.layers.residual import Residual

__all__ = [
    "Dense",
    "Dropout",
    "Layer",
    "LayerNorm",
    "ParameterSpec",
    "Place",
    "Residual",
    "checked_layers",
    "layers_from",
    "places_of",
]
