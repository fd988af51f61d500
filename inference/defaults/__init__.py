"""What a fit chooses by itself, and the knobs of priors."""
