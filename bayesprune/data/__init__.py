"""Data sets by name and out of files."""
