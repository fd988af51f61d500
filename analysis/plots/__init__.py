"""Figures of a fit, one file each, in one style."""
