"""Masks on weights: which weights of a network are there at all."""
