"""Several extractors on the same images: `compare`, and what it finds."""
