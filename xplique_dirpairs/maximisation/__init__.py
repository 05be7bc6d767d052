"""Generate images that maximise a concept, and measure what the network detects in them."""
