"""Training: `fit`, its arguments and checkpoints, and a fit made without training."""
