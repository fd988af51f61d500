"""Sparse training: masks that change while the weights are trained."""
