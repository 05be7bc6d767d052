"""Images and activations, in memory and on disk."""
