"""The mask of a concept in annotated images."""


def mask_of(annotated, category, name):
    """Return a concept's mask, (N, H, W) bool."""
    return annotated.masks[category] == annotated.concepts[category].index(name) + 1
