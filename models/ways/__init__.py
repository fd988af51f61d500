"""Ways: what lies between drawn weights and the network."""
