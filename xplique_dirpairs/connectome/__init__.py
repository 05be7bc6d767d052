"""How concepts of a layer are made of concepts of earlier layers: the connectome."""
