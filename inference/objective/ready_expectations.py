"""The expectations that models of this package ask for: their files register themselves when they are imported."""

from __future__ import annotations

from bayesprune.inference.objective import unit_gate_expectation  # noqa: F401  it registers itself
from bayesprune.inference.objective.expectation import expectation_for

__all__ = ["expectation_for"]
