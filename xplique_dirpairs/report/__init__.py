"""Reports of a model's concepts, as HTML pages that any browser opens from disk."""
