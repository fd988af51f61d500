"""Terms of the negative ELBO, their registry, and the check of a term."""
