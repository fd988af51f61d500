"""Search: which architecture, by evolution of graphs and a surrogate that is passed in."""
