"""Experiments that fastbp's constants come from; none is needed to use or to test it."""
