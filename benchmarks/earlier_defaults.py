"""Defaults under which figures were measured that are older than today's: KL weight, fade-in, unit gates.

Their scripts give them by name, so that they go on giving these figures.
"""

from __future__ import annotations

EARLIER: dict[str, float] = {"kl_weight": 1.0, "kl_warmup": 0.2}
EARLIER_POINTS: dict[str, float] = {"kl_weight": 1.0, "kl_warmup": 0.0}
"""Of a MAP."""
EARLIER_UNIT_GATES: dict[str, float] = {"weight_scale": 0.3}
EARLIER_GATING: dict[str, float] = {"delay": 0.0}
