"""Distributions that PyTorch and Pyro do not have."""
