"""Yardsticks written without the package: hand-written training loops and magnitude pruning."""
