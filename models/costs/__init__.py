"""Costs of a network: weights, operations, bytes, time, and what is expected under gates."""
