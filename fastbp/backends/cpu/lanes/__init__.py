"""Kernels for narrow networks on many rows: the rows of the batch lie in the lanes of the vectors."""
