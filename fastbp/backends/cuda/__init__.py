"""The CUDA backend, twin of the CPU's: the same rooms, names and order of arguments."""
