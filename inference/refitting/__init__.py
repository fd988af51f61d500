"""The posterior given the structure: which weights are in is fixed, and their posterior is trained on."""
