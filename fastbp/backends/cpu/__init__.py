"""The CPU backend: the only place that imports Numba."""
