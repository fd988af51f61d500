"""Tables of a fit: layers, gates, costs of training."""
