"""Helpers for all other modules: validation, linear algebra, geometry, progress, tables, files."""
