"""Structure: features of graphs, and how well they predict what networks of them come to."""
