"""The language of priors: hierarchies, ready priors, likelihoods and the networks they are put on."""
