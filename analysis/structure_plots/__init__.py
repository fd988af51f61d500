"""Figures of structure: graphs, what they predict, and searches."""
