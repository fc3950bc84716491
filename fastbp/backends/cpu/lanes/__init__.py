"""Kernels for narrow networks on many rows: rows of the batch lie in the lanes of vectors."""
