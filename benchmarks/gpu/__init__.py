"""The GPU benchmark: correctness, open questions, ceilings and speed of one NVIDIA GPU."""
