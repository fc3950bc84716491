"""Benchmarks: a correctness check, then the time, then the share of the machine's limit."""
