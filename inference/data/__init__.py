"""Training data as a fit sees them: batches, their statistics and sketches, fingerprints."""
