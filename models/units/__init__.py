"""Units: which parts of a network can be removed together, and their exact removal."""
