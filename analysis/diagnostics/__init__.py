"""Whether a fit has converged, agrees with its restarts, and is near the posterior."""
