"""What a fitted guide says: shrinkage, what the data say; and how fits are stored, copied and begun from."""
