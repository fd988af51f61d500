"""Fits along the values of a prior's knob, their front and their folder."""
