"""Samples of the posterior at the cold ends of cycles of the learning rate, as a rule of a fit."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayesprune.inference.guides.guide import GuideChoice, assign_families
from bayesprune.inference.guides.registry import is_point
from bayesprune.inference.masks.dynamic_masks import ActiveMasks
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.rules.rule import ActiveRule, Change, Collected, Needs, Rule, Run, Taken, never
from bayesprune.inference.rules.schedules import cyclical, schedule_named
from bayesprune.inference.samplers.langevin import SAMPLERS, is_sampler
from bayesprune.inference.samplers.mask_phases import check_phases
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["ActiveSampling", "CyclicalSampling"]

RATE, USUAL_RATE = 0.1, 1e-3
"""Step size in the beginning of a cycle, of the mean loss: of samplers and of SGD, and of Adam."""


@dataclass(frozen=True)
class CyclicalSampling(Rule):
    """Collects networks at the ends of cycles: samples of the posterior, or snapshots, which become the fit's restarts.

    Each cycle begins with a high learning rate, which carries the network to another mode, and anneals it to nothing
    along a cosine (`cyclical`). In its last part noise is added to the steps, so that they sample the posterior around
    that mode: stochastic gradient HMC or Langevin dynamics (Zhang, Li, Zhang, Chen & Wilson 2020). There networks are
    collected, at equal distances, the last one at the end of the cycle: all that is learned, running statistics, masks.

    Each of them is a restart of the fit: ``fit.combined(weights="equal")`` averages their predictions,
    ``fit.restarts[k]`` is one of them, and ``settings["samples"]`` says of which run and step it is. With
    `DynamicMasks` they are sparse; the density then has to be the final one where networks are collected, and masks
    have to rest while there is noise, since it samples weights given masks: see `CoolingCycles`.
    `sampled_inclusion` is the share of samples that a weight is in.

    It asks for a sampler, the learning rate 0.1 and `cyclical` of its cycles where none are given, and for the
    posterior itself (``kl_weight=1``, no fade-in). Without noise (``temperature=0``) it asks for SGD, or for Adam where
    weights are no points, and the networks are a snapshot ensemble (Huang et al. 2017).

    Attributes:
        cycles: Number of cycles in the fit; default 4.
        samples: Networks that are collected in each; default 3.
        temperature: 1 (default): noise of the posterior; below, of a colder one, exp(-U / temperature); 0: no noise.
        noise_from: Share of a cycle after which there is noise and networks are collected, in [0, 1); default 0.9.
        sampler: ``"sghmc"`` (default) or ``"sgld"``: what is asked for as the optimizer.

    Raises:
        ValueError: If an argument is out of range or unknown.
    """

    cycles: int = 4
    samples: int = 3
    temperature: float = 1.0
    noise_from: float = 0.9
    sampler: str = "sghmc"
    name: ClassVar[str] = "sampling"
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        for name in ("cycles", "samples"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"CyclicalSampling({name}=...) is a whole number, at least 1, not {value!r}")
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(
                f"CyclicalSampling(temperature=...) is 1 for the posterior, 0 for no noise, not {self.temperature}"
            )
        if not 0.0 <= self.noise_from < 1.0:
            raise ValueError(f"CyclicalSampling(noise_from=...) is a share of a cycle in [0, 1), not {self.noise_from}")
        if self.sampler not in SAMPLERS:
            known = " or ".join(map(repr, SAMPLERS))
            raise ValueError(f"CyclicalSampling(sampler=...) takes {known}, not {self.sampler!r}")

    def training(self, model: BayesianNetwork, guide: GuideChoice) -> Mapping[str, Any]:
        """By its sampler from the full prior on, or by SGD or Adam where there is no noise; in cycles in any case."""
        cycles = {"schedule": cyclical(self.cycles)}
        if self.temperature > 0.0:
            return {"optimizer": self.sampler, "learning_rate": RATE, "kl_weight": 1.0, "kl_warmup": 0.0, **cycles}
        if all(is_point(family) for family in assign_families(model, guide).values()):
            return {"optimizer": "sgd", "learning_rate": RATE, **cycles}
        return {"optimizer": "adam", "learning_rate": USUAL_RATE, **cycles}

    def check(self, model: BayesianNetwork, options: Mapping[str, Any]) -> None:
        """Refuses gates of units, whose removal would leave samples of several sizes, and a schedule without cycles."""
        if model.closes_units:
            raise ValueError(
                "CyclicalSampling collects networks of one size, and gates of units remove units: leave one of them out"
            )
        factor = schedule_named(options["schedule"], options["epochs"] or 1)
        starts = [factor(number / self.cycles) for number in range(self.cycles)]
        if max(starts) - min(starts) > 1e-6 * max(starts):
            raise ValueError(
                f"the learning rate does not begin anew in each of the {self.cycles} cycles of CyclicalSampling: leave "
                f"out schedule= and optimizer=, which it asks for by itself (sampler={self.sampler!r}), or give "
                f"schedule=cyclical({self.cycles})"
            )

    def begin(self, run: Run) -> ActiveSampling:
        """Begins with nothing collected."""
        return ActiveSampling(self, run)


class ActiveSampling(ActiveRule):
    """The samples of one restart.

    Args:
        rule: What was asked for.
        run: The restart.

    Attributes:
        taken: Steps after which a network was collected so far.

    Raises:
        ValueError: If a cycle is too short for its samples; with noise, if the optimizer has none, a latent is no point
            on the real line, or the prior still fades in where the noise begins.
    """

    needs = Needs(batch=never)

    def __init__(self, rule: CyclicalSampling, run: Run) -> None:
        self.rule, self.run = rule, run
        self.taken: list[int] = []
        self._kept: list[tuple[int, list[Tensor]]] = []  # epoch and tensors
        self._masks: ActiveMasks | None = None
        self._is_checked = False
        # Rounded as the marks of a density schedule are: where a cycle of masks ends, so does this one.
        ends = [round(number / rule.cycles * run.steps) for number in range(rule.cycles + 1)]
        self._stages = [
            (first + math.floor(rule.noise_from * (last - first)), last)
            for first, last in zip(ends, ends[1:], strict=False)
        ]
        shortest = min(last - first for first, last in self._stages)
        if shortest < rule.samples:
            raise ValueError(
                f"the last part of a cycle, from {rule.noise_from:g} of it on, has {shortest} steps for "
                f"{rule.samples} samples: train longer, or take fewer cycles, fewer samples or a lower noise_from"
            )
        self._due = [
            last - number * ((last - first) // rule.samples)
            for first, last in self._stages
            for number in reversed(range(rule.samples))
        ]
        if self.is_warm:
            self._check_posterior()

    def _check_posterior(self) -> None:
        run, guide = self.run, self.run.objective.guide
        if not is_sampler(run.optimizer):
            raise ValueError(
                f"CyclicalSampling(temperature={self.rule.temperature:g}) needs a sampler, not "
                f"{type(run.optimizer).__name__}: leave out optimizer=, or take temperature=0"
            )
        others = [site.name for site in run.objective.model.sites.values() if site.support != "real"]
        if others or not guide.is_map:
            raise ValueError(
                "noise samples points on the real line, which "
                + (f"{others[0]} is not" if others else "this guide does not have")
                + ": fit with guide='map' and a prior without scales and gates, such as Gaussian, or take temperature=0"
            )
        if run.kl_warmup * run.steps > self._stages[0][0]:
            raise ValueError(
                f"the prior fades in over {run.kl_warmup:g} of the fit, and the first samples would be of a weaker "
                "one: give kl_warmup=0"
            )

    def is_noisy(self, step: int) -> bool:
        """Whether the step of this number, from 1, has noise."""
        return self.is_warm and any(first < step <= last for first, last in self._stages)

    @property
    def is_warm(self) -> bool:
        """Whether there is noise at all."""
        return self.rule.temperature > 0.0

    def before_step(self, step: int) -> None:
        """Sets the temperature of the step."""
        if not self._is_checked:
            self._masks = next((one for one in self.run.rules.values() if isinstance(one, ActiveMasks)), None)
            if self._masks is not None:
                noisy = self._stages if self.is_warm else []
                check_phases(self._masks, self.run.steps, self._due, noisy, self.rule.cycles)
            self._is_checked = True
        self._collect(self.run.epoch)
        if self.is_warm:
            temperature = self.rule.temperature if self.is_noisy(step) else 0.0
            for group in self.run.optimizer.param_groups:
                group["temperature"] = temperature

    def after_step(self, taken: Taken) -> Change:
        """Keeps noise off what is masked out, and collects the network where it is time to."""
        cleared = self._masks is not None and self.is_noisy(taken.step)
        if cleared and self._masks is not None:
            self._masks.support.clear()  # a weight that is out is zero, and comes back at zero
        self._collect(self.run.epoch + 1)
        return Change.VALUES if cleared else Change.NOTHING

    def end(self) -> None:
        """Collects the network of a last step that fell on a batch which was left out."""
        self._collect(self.run.epoch)

    def _collect(self, epoch: int) -> None:
        """Keeps the network as it is, if it is due; a step on a batch that was left out is heard of in the next one."""
        if len(self.taken) < len(self._due) and self._due[len(self.taken)] <= self.run.step:
            self.taken.append(self._due[len(self.taken)])
            self._kept.append((max(1, epoch), [each.detach().clone() for each in _all_of(self.run.objective)]))

    @torch.no_grad()
    def collected(self) -> Sequence[Collected]:
        """The networks, in the order in which they were collected."""
        found: list[Collected] = []
        for step, (epoch, tensors) in zip(self.taken, self._kept, strict=True):
            one = copy.deepcopy(self.run.objective)
            for own, value in zip(_all_of(one), tensors, strict=True):
                own.copy_(value)
            if one.model.progress is not None:
                one.model.progress.set(1.0)
            count = f"sample {len(found) + 1} of {len(self.taken)} of a run, after its step {step:,}"
            one.guide.notes.append(count + (f", at temperature {self.rule.temperature:g}" if self.is_warm else ""))
            found.append(Collected(one.model, one.guide, step, epoch))
        return found

    def report(self) -> dict[str, Any]:
        """What was asked for, and where networks were collected."""
        return {
            "cycles": self.rule.cycles,
            "samples": self.rule.samples,
            "temperature": self.rule.temperature,
            "noise_from": self.rule.noise_from,
            "steps": list(self.taken),
        }

    def state_dict(self) -> dict[str, Any]:
        """What was collected so far."""
        collected = zip(self.taken, self._kept, strict=True)
        return {"kept": [{"step": step, "epoch": epoch, "tensors": all_} for step, (epoch, all_) in collected]}

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Goes on from there."""
        own = _all_of(self.run.objective)
        self.taken = [one["step"] for one in kept["kept"]]
        self._kept = [
            (one["epoch"], [value.to(like.device) for value, like in zip(one["tensors"], own, strict=True)])
            for one in kept["kept"]
        ]


def _all_of(objective: Objective) -> list[Tensor]:
    """All that a network is at a step: what is learned, running statistics, masks, numbers that rules move."""
    return [*objective.parameters(), *objective.buffers()]
