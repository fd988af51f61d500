"""Run folders: what a run is declared by, and a fit on disk."""
