"""Notes on a fit with masks: layers that connect nothing, and channels that are dead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayesprune.inference.fitted import Fitted
from bayesprune.models.checks.listed_names import listed
from bayesprune.models.masks.mask_way import Masks

__all__ = ["mask_notes"]

STEADY = 0.01
"""Relative change of the density within which it has stood still."""
HALF = 0.5
"""Share of a tensor's output channels from which on dead ones are told."""


def mask_notes(fit: Fitted, has_learned: bool = False) -> list[str]:
    """What the masks of the first restart cut off, the worst first; nothing where paths lead through most channels.

    Args:
        fit: The fit; what `Records` of `bayesprune.inference.masks.records` saw is looked at.
        has_learned: Whether it has learned nearly all there is, so that dead channels are no fault; default False.
    """
    report = (fit.settings.get(Masks.name) or [{}])[0]
    if "collapsed" not in report:
        return []  # no masks were trained
    collapsed = [str(name) for name in report["collapsed"]]
    more = _more(fit, report)
    if collapsed and len(collapsed) == len(report["layers"]):
        return [f"no path from input to output is left through the masks, and nothing can be learned: {more}"]
    notes = []
    if collapsed:
        rest = "go around them" if len(collapsed) > 1 else "go around it"
        notes.append(f"no path from input to output is left through {listed(collapsed)}, and all others {rest}: {more}")
    if has_learned:
        return notes
    dead = {str(name): (count, of) for name, (count, of) in report["dead"].items() if name not in collapsed}
    much = sorted(
        (name for name, (count, of) in dead.items() if count > HALF * of), key=lambda n: -dead[n][0] / dead[n][1]
    )
    if much:
        told = listed([f"{dead[name][0]:,} of {dead[name][1]:,} channels of {name}" for name in much])
        notes.append(f"{told} are dead, as no path from input to output leads through them: {more}")
    return notes


def _more(fit: Fitted, report: Mapping[str, Any]) -> str:
    """What opens paths, as the end of a sentence."""
    share = report["asked_count"] / report["virtual"]
    density = fit.trace["masks"].sel(masks_name="density").isel(restart=0)
    moved = float(density.max()) > (1.0 + STEADY) * float(density.min())
    while_trained = "" if moved else ", one that is higher for a while (schedule=CyclicDensity())"
    return f"give a density above {share:.2g}{while_trained}, or a narrower network"
