"""A stopping rule: a restart ends when its iterates look stationary."""

from __future__ import annotations

import numpy as np

from bayesprune.analysis.diagnostics.convergence import RESOLUTION, check_windows, judge
from bayesprune.inference.watching.callbacks import FitState

FEWEST = 100
"""Iterates after the KL warm-up below which there is no look: errors estimated from short windows are too noisy."""
GROWTH = 1.1
"""Factor by which the iterates have to have grown for another look: chance has few looks at which to be lucky."""


class UntilConverged:
    """``rule(state)``: whether the iterates of a restart look stationary; made by `until_converged`.

    Attributes:
        verdict: What the last look gave, as `convergence` puts it.
        reason: Why it stops the restart, or does not, in one sentence; `fit` puts it in ``settings["stopped_early"]``.
    """

    def __init__(self, windows: int, looks: int) -> None:
        self.windows, self.looks = windows, looks
        self._state: FitState | None = None
        self._seen = 0  # iterates at the last look
        self._in_a_row = 0  # looks that said "converged"
        self._begins = 0  # step until which the prior was annealed
        self._forget()

    def __call__(self, state: FitState) -> bool:
        """Looks at the iterates so far; a restart that is new to it begins anew."""
        if state is not self._state:
            self._state = state
            self._forget()
        rates = [row["learning_rate"] for row in state.history]
        if rates and rates[-1] < max(rates):
            self.verdict = "cannot tell"
            self.reason = (
                f"the learning rate has fallen to {rates[-1] / max(rates):.2g} of its highest, which stills any fit: "
                "give schedule='constant'"
            )
            return False
        if not self._is_final(state):
            self._begins = state.step
            self.verdict = "cannot tell"
            self.reason = f"fewer than {FEWEST} iterates were recorded since the prior changed with the fit's progress"
            return False
        begins = max(self._begins, state.kl_warmup * (state.steps or state.step))  # 0: of a loop of one's own
        iterates = [row for row in state.iterates if row["step"] > begins]
        if len(iterates) < max(FEWEST, GROWTH * self._seen):
            return False
        self._seen = len(iterates)
        series = {name: np.array([row[name] for row in iterates]) for name in iterates[0]}
        kind = "log joint" if state.objective.guide.is_map else "ELBO"
        resolution = RESOLUTION * state.objective.model.data_size
        self.verdict, self.reason = judge([series], self.windows, kind, resolution)
        self._in_a_row = self._in_a_row + 1 if self.verdict == "converged" else 0
        if self._in_a_row:
            self.reason = f"converged: {self.reason} (look {self._in_a_row} of {self.looks} in a row)"
        return self._in_a_row >= self.looks

    def _is_final(self, state: FitState) -> bool:
        """Whether the objective is the one that the fit ends on, as far as annealed priors go."""
        model = state.objective.model
        if model.progress is None:
            return True
        share = float(model.progress.value)
        return all(hierarchy.is_final(share) for hierarchy in model.patterns.values())

    def _forget(self) -> None:
        self._seen, self._in_a_row, self._begins = 0, 0, 0
        self.verdict, self.reason = "cannot tell", f"fewer than {FEWEST} iterates were recorded since the KL warm-up"


def until_converged(windows: int = 4, looks: int = 2) -> UntilConverged:
    """A rule for ``fit(stop=...)`` that ends a restart when `convergence` would call it converged.

    It is asked after each epoch and judges the iterates since the end of the KL warm-up, of this restart alone, as
    `convergence` does: with windows that grow with the fit, so that what came before the plateau stays in the first
    ones. The first look is at 100 iterates. The same noise is not asked twice: there is another look only when the
    iterates are 10 % more than at the last one, and `looks` of them in a row have to say ``"converged"``. It does not
    stop during the KL warm-up, nor while a prior is annealed: what came before is no part of what it judges.

    It is meant for ``schedule="constant"``, where iterates behave like a Markov chain (Dhaka et al. 2020). Under any
    other schedule it judges while the learning rate is the highest so far, and never stops a restart after it has
    fallen, since that stills any fit; ``"hold-cosine"`` can be stopped in its first half only. A restart that it stops
    ends with the noise of its learning rate: average its iterates (`IterateAverage`).

    The iterates that it sees are the recorded ones, a thousand in all ``steps``: give a fit enough steps, since that is
    also where it ends without a verdict.

    Args:
        windows: Number of windows, at least 2; default 4.
        looks: Looks in a row that have to say so; default 2.

    Returns:
        The rule; its `reason` says why it stopped, or why it does not.

    Raises:
        ValueError: If `windows` is below 2 or `looks` below 1.
    """
    check_windows(windows)
    if looks < 1:
        raise ValueError(f"looks in a row must be at least 1, not {looks}")
    return UntilConverged(windows, looks)
