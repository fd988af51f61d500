"""What a network's outputs mean: the distribution of an observation given the outputs for it."""
