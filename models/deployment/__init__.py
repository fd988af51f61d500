"""What leaves the house: exported, compact and sparse networks."""
