"""Changes of concepts that change a prediction, and models that no longer use a concept."""
