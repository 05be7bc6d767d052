"""Read the graph of a network, split the network in two halves, and evaluate its head."""
