"""Evidence at scale that fastbp keeps its promises: ``python -m benchmarks.reliability``."""
