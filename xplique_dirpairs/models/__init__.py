"""The network: its graph, its two halves, its head."""
