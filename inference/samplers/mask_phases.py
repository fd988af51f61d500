"""How cycles of masks and of a learning rate have to go together, so that samples are of the final density."""

from __future__ import annotations

from collections.abc import Sequence

from bayesprune.inference.masks.dynamic_masks import ActiveMasks

__all__ = ["check_phases"]


def check_phases(
    masks: ActiveMasks, steps: int, due: Sequence[int], noisy: Sequence[tuple[int, int]], cycles: int
) -> None:
    """Refuses masks that are not as dense as in the end where a network is collected, or that move in the noise.

    Noise samples the weights given the masks: where these change by a score meanwhile, it samples nothing.

    Args:
        masks: The masks.
        steps: Steps of the fit.
        due: Steps after which a network is collected.
        noisy: Steps after which noise begins and ends, of each cycle; none without noise.
        cycles: How many cycles there are.

    Raises:
        ValueError: In one sentence, which names the step.
    """
    schedule, layout = masks.rule.schedule, masks.layout
    final = sum(layout.at(layout.density).values())
    counts: list[int] = []  # after each step, from 0 on
    moves: list[bool] = []
    for step in range(steps + 1):
        share, updates = masks.plan.get(step, step / steps), step == 0 or step in masks.plan
        count = sum(layout.at(schedule.at(share, layout.density)).values()) if updates else counts[-1]
        exchanged = updates and 0 < step < steps and masks.share_at(share) > 0.0 and schedule.exchanges(share)
        moves.append(exchanged or (step > 0 and count != counts[-1]))
        counts.append(count)
    remedy = f"give DynamicMasks(schedule=CoolingCycles({cycles})), with a rest that begins before the noise does"
    for step in due:
        if counts[step] != final:
            raise ValueError(
                f"at step {step:,}, where a network is collected, masks have {counts[step]:,} weights in, and not the "
                f"{final:,} of the end: {remedy}"
            )
    for first, last in noisy:
        moved = next((step for step in range(first + 1, last + 1) if moves[step]), None)
        if moved is not None:
            raise ValueError(
                f"masks change at step {moved:,}, while noise samples the weights given the masks (after step "
                f"{first:,}, to {last:,}): {remedy}"
            )
