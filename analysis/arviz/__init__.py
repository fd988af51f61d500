"""Fits in the form that ArviZ takes."""
