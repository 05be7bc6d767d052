"""Concepts in video: what of them moves, where they are over time, and which ones matter."""
