"""Sampling the posterior by gradients with noise, and what is collected of it."""
