"""A report of a model's concepts, as pages that any browser opens from disk."""
