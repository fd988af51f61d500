"""The ready priors, one file each, and their names."""
