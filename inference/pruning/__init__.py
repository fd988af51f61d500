"""Pruning: criteria, plain networks with zeros in place, fine-tuning."""
