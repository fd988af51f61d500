"""Guides of ways, and what steps need of them on the host."""
