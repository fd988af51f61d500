"""Genomes: networks as acyclic graphs of operations, which a search may change."""
