"""The language of priors: latents, hierarchies, levels, inclusion events, and how a declaration is run."""
