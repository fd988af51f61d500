"""Recipes of sparse training: what the methods of the papers are, each a few settings of one rule."""
