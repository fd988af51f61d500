"""Guides: q over every latent, its families, and where they start."""
