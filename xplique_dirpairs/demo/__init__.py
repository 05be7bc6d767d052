"""The demonstration on built-in data."""
