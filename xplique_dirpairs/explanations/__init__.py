"""Explanations of a model's classes, and of single predictions, by concepts."""
