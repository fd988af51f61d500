"""What networks and fits predict, with scores and intervals."""
