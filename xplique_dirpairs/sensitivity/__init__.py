"""Influence of concepts on classes, and its significance."""
