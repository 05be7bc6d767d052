"""Comparison of several extractors on the same images: `compare` and its result."""
