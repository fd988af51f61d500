"""Posterior inclusion: probabilities of weights and units, evidence, and how far to trust them."""
