"""Reference networks, and what is done to any network without looking into its graph."""
