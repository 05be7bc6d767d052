"""Images that maximise a concept, and what the network detects in them."""
