"""Channel tracing: which channel each number of a network belongs to."""
