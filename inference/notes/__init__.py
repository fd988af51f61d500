"""What is said of a fit: its summary, and sentences on what is wrong with it and what to turn."""
