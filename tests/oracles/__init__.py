"""Independent references: exact answers and hand-written loops, written from the formulas alone.

Nothing here imports bayesprune. A test that compares the package with one of these modules therefore
compares two separate derivations, and a mistake in the package cannot repeat itself in its own oracle.
"""
