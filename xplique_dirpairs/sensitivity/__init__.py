"""Influence of concepts on classes, with its significance."""
