"""Many fits: what is searched, who fits it, and what has come of it."""
