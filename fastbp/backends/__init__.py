"""Backends: each compiles the same kernels for one kind of device."""
