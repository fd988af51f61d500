"""Phasing of DyReLU: an activation that helps in the beginning and is a ReLU in the end, as a rule of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bayesprune.inference.rules.registry import brought_by
from bayesprune.inference.rules.rule import ActiveRule, Needs, Rule, Run, never
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.networks.dyrelu import DyReLU
from bayesprune.models.networks.dyrelu_networks import dyrelus_of, unfaded_note

__all__ = ["ActivePhasing", "Phasing"]


@brought_by(DyReLU)
@dataclass(frozen=True)
class Phasing(Rule):
    """Fades the DyReLU layers of a network into ReLUs, linearly from step to step between two shares of the fit.

    beta is 1 before `begins`, 0 from `ends` on, and (ends - share) / (ends - begins) between them, where the share is
    that of the steps done before a step. From the first step at or after `begins` the hyper-networks get no gradient,
    and what the optimizer remembers of them is cleared; after `ends` they are not calculated any more. The networks
    that a fit gives back have ReLUs then; of a fit that was stopped before they keep their DyReLUs, and it says so.

    The code of EAST (ES2) counts in epochs e = 0, 1, ... of E, lets the learning rate fall at m = E / 2, and fades from
    m / 2 to m - 1, which is `Phasing(0.25, 0.5 - 1 / E)`; its freeze asks for e == m / 2, which no epoch is where E is
    no multiple of four, so that it never came: here it comes. Hyper-networks have no prior, and so no weight decay,
    which they have there.

    Attributes:
        begins: Share of the fit at which it begins; default 0.25.
        ends: Share at which it is done; default 0.5.

    Raises:
        ValueError: If the shares are not in order.
    """

    begins: float = 0.25
    ends: float = 0.5
    name: ClassVar[str] = "phasing"

    def __post_init__(self) -> None:
        if not 0.0 <= self.begins < self.ends <= 1.0:
            raise ValueError(
                f"Phasing takes two shares of the fit, 0 <= begins < ends <= 1, not {self.begins} and {self.ends}"
            )

    def beta(self, share: float) -> float:
        """What the residuals of coefficients are multiplied by at a share of the fit, in [0, 1]."""
        return min(max((self.ends - share) / (self.ends - self.begins), 0.0), 1.0)

    def check(self, model: BayesianNetwork, options: Mapping[str, Any]) -> None:
        """Refuses a network without DyReLU."""
        if not dyrelus_of(model.network):
            raise ValueError(
                "Phasing fades DyReLU layers, but the network has none: make it by with_dyrelu(network), or leave the "
                "rule out"
            )

    def begin(self, run: Run) -> ActivePhasing:
        """Begins with beta at 1 and hyper-networks that are trained."""
        return ActivePhasing(self, run)


class ActivePhasing(ActiveRule):
    """The phasing of one restart.

    Args:
        rule: What was asked for.
        run: The restart.
    """

    needs = Needs(batch=never)

    def __init__(self, rule: Phasing, run: Run) -> None:
        self.rule, self.run = rule, run
        self._layers: list[DyReLU] = []
        self.replaced()
        for layer in self._layers:
            layer.put(1.0)
            layer.freeze(False)
        self._beta, self._is_frozen = 1.0, False

    def replaced(self) -> None:
        """Finds the layers of the model that there is now."""
        self._layers = dyrelus_of(self.run.objective.model.network)

    def before_step(self, step: int) -> None:
        """Sets beta, and freezes where it is time to."""
        self._go_to((step - 1) / self.run.steps)

    def end(self) -> None:
        """Sets beta to 0 where the fit has come as far, though no step was taken with it; else says so."""
        if self.run.step / self.run.steps >= self.rule.ends:
            self._go_to(1.0)
        self.run.objective.guide.notes += unfaded_note(self.run.objective.model.network)

    def row(self) -> Mapping[str, float]:
        """Where beta stands."""
        return {"dyrelu_beta": self._beta}

    def report(self) -> dict[str, Any]:
        """How many parameters the layers have, apart from the network's weights, and whether they still act."""
        parameters = sum(parameter.numel() for layer in self._layers for parameter in layer.parameters())
        return {"parameters": parameters, "active": self._beta > 0.0, "beta": self._beta}

    def state_dict(self) -> dict[str, Any]:
        """Where it stands; the layers' buffers are kept with the model."""
        return {"beta": self._beta, "frozen": self._is_frozen}

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._beta, self._is_frozen = float(kept["beta"]), bool(kept["frozen"])
        self.replaced()

    def _go_to(self, share: float) -> None:
        beta = self.rule.beta(share)
        if share >= self.rule.begins and not self._is_frozen:
            self._freeze()
        if beta != self._beta:
            self._beta = beta
            for layer in self._layers:
                layer.put(beta)

    @torch.no_grad()
    def _freeze(self) -> None:
        self._is_frozen = True
        for layer in self._layers:
            layer.freeze()
            for parameter in layer.parameters():
                for state in self.run.optimizer.state.get(parameter, {}).values():
                    if torch.is_tensor(state) and state.shape == parameter.shape:
                        state.zero_()
