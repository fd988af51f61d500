"""References of small models, what they say, and fits beside them."""
