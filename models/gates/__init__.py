"""Gates on units: their declaration, their prices, and where they act in a network."""
