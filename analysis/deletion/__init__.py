"""What deleting weights and units does to the held-out loss."""
