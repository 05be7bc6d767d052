"""What drives a model, and a prediction, by concepts."""
