"""Fixed gates: a rule that has a fit trained on with given weights in, and all others out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.masks.starts import GivenMasks
from bayesprune.inference.masks.support import Support
from bayesprune.inference.rules.rule import ActiveRule, Change, Needs, Rule, Run, never
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.masks.mask_way import Masks

__all__ = ["ActiveFixedGates", "FixedGates"]

REFIT = "refit"


@dataclass(frozen=True)
class FixedGates(Rule):
    """Fixes which weights are in from the first step on; `refit` makes it.

    Where a prior has Bernoulli gates whose zero takes a weight out (`exact_zero`), q of these gates becomes given: 0 or
    1 for good, no parameter of any optimizer. The term of a gate is then minus its log prior probability, and the
    objective bounds log p(data, gates). Where there are no such gates, or the masks part what one gate holds together,
    the tensor gets `Masks` beside them, as in sparse training: what is out is cleared as `Support` clears it.

    Attributes:
        words: How the weights were chosen.
        digests: Of the masks, one a restart, by which a checkpoint knows them again.
        masks: Booleans by name of tensor, `(out, in, ...)`, a mapping a restart.
        knobs: Where each restart's knobs stand, by ``"pattern.name"``; they stay there.
        first: Number of the first restart in the fit that it goes on from; None: all of them are trained on.
    """

    words: str
    masks: Sequence[Mapping[str, Tensor]] = field(repr=False, compare=False)
    knobs: Sequence[Mapping[str, float]] = ()
    first: int | None = None
    digests: tuple[str, ...] = ()
    name: ClassVar[str] = REFIT
    order: ClassVar[int] = -1

    def __post_init__(self) -> None:
        found = tuple(_digest(masks) for masks in self.masks)
        object.__setattr__(self, "digests", found)

    def begin(self, run: Run) -> ActiveFixedGates:
        """Fixes the gates of a restart, whose guide is where the earlier fit has left it."""
        return ActiveFixedGates(self, run)


class ActiveFixedGates(ActiveRule):
    """The fixed gates of one restart.

    Args:
        rule: What was asked for.
        run: The restart.
    """

    needs = Needs(batch=never)

    def __init__(self, rule: FixedGates, run: Run) -> None:
        self.rule, self.run = rule, run
        model, guide = run.objective.model, run.objective.guide
        if rule.knobs:
            model.knobs.go_on_from(rule.knobs[run.restart])
        masks = rule.masks[run.restart]
        self.counts = {name: int(mask.sum()) for name, mask in masks.items()}
        self.fixed = fix_gates(model, guide, masks, rule.masks)
        run.replace(model, guide)  # the optimizer of before has the gates among its parameters
        self.support = None if self.fixed.masks is None else Support(run, self.fixed.masks)
        if self.support is not None:
            self.support.clear()

    def after_epoch(self) -> Change:
        """Takes back what optimizers make of gradients that are zero but for rounding."""
        if self.support is None:
            return Change.NOTHING
        self.support.settle()
        return Change.VALUES

    def end(self) -> None:
        """Likewise."""
        if self.support is not None:
            self.support.settle()

    def report(self) -> dict[str, Any]:
        """What is fixed, and how."""
        kept, of = sum(self.counts.values()), sum(mask.numel() for mask in self.rule.masks[self.run.restart].values())
        return {
            "gates": self.rule.words,
            "kept": kept,
            "of": of,
            "layers": dict(self.counts),
            "by_gates": list(self.fixed.by_gates),
            "by_masks": list(self.fixed.by_masks),
            "from": self.run.restart if self.rule.first is None else self.rule.first,
        }


@dataclass(frozen=True)
class Fixed:
    """How weights were fixed.

    Attributes:
        by_gates: Tensors whose own gates are given and say all of it.
        by_masks: Tensors that got masks.
        masks: The masks of the model, if it has any now.
    """

    by_gates: tuple[str, ...]
    by_masks: tuple[str, ...]
    masks: Masks | None


@torch.no_grad()
def fix_gates(
    model: BayesianNetwork,
    guide: Guide,
    masks: Mapping[str, Tensor],
    every: Sequence[Mapping[str, Tensor]] | None = None,
) -> Fixed:
    """Fixes which weights are in, IN PLACE, by given gates where there are Bernoulli ones, else by masks.

    Args:
        model: The model.
        guide: Its guide.
        masks: Booleans by name of tensor, `(out, in, ...)`.
        every: Those of all restarts, which are kept under one declaration: where one of them needs masks for a tensor,
            all have them. Default None: these alone.
    """
    place = next(model.network.parameters()).device
    masks = {name: mask.to(place) for name, mask in masks.items()}
    given = guide.give_gates(_gates_of(model, masks))
    by_gates = {name for name, prior in model.priors.items() if _gate_of(prior) in given}
    settle_closed(guide, by_gates)
    others = [masks] if every is None else every
    parted = [name for name in masks if any(_is_parted(model.priors[name], own[name], given) for own in others)]
    put = put_masks(model, {name: masks[name] for name in parted})
    return Fixed(tuple(name for name in masks if name in by_gates - set(parted)), tuple(parted), put)


def put_masks(model: BayesianNetwork, masks: Mapping[str, Tensor]) -> Masks | None:
    """Gives a model masks beside those that it has, IN PLACE; returns its masks, or None where it has none.

    Args:
        model: The model.
        masks: Booleans by name of tensor, `(out, in, ...)`; none: it keeps what it has.
    """
    before = next((way for way in model.ways if isinstance(way, Masks)), None)
    if not masks:
        return before
    like = next(model.network.parameters())
    own = {} if before is None else dict(before.masks.items())
    made = Masks({**own, **masks}).to(like.device, like.dtype)
    if before is None:
        model.ways.append(made)
    else:
        model.ways[next(number for number, way in enumerate(model.ways) if way is before)] = made
    return made


@torch.no_grad()
def settle_closed(guide: Guide, names: set[str]) -> None:
    """Puts Normal factors of slabs that given gates leave out at their prior, IN PLACE, where they would cost: 0 nats.

    In the paired guide q of such a slab is its prior whatever its numbers are.

    Args:
        guide: A guide whose gates are given.
        names: Tensors with such gates.
    """
    values = guide.means()
    for name in names:
        prior = guide.model.priors[name]
        event = prior.hierarchy.included
        slab = None if event is None or event.slab is None else prior.sites[event.slab].name
        gate = _gate_of(prior)
        if slab is None or gate is None or guide.family_of[slab] != "normal":
            continue
        found: dict[str, Iid] = {}

        def visit(site: str, fn: Iid, found: dict[str, Iid] = found) -> Tensor:
            found[site] = fn
            return values[site]

        prior.run(visit, guide.model.network.get_parameter(name), {})
        base = found[slab].base_dist
        if type(base) is not dist.Normal:
            continue
        out = prior.spread(str(event.gate), values[gate]) < 0.5  # type: ignore[union-attr]
        for family in guide.families:
            for piece in family.slices():  # type: ignore[operator]
                if piece.site.name == slab:
                    value = piece.of(family.get_parameter(piece.parameter).data)
                    at = base.loc if piece.parameter == "location" else base.scale.log()
                    value.copy_(torch.where(out, at.expand(value.shape), value))


def _gate_of(prior: TensorPrior) -> str | None:
    """The site of the Bernoulli gates whose zero takes weights of a tensor out, if it has any."""
    event = prior.hierarchy.included
    if event is None or event.gate is None or not event.is_exact:
        return None
    site = prior.sites[event.gate]
    return site.name if site.support == "boolean" else None


def _gates_of(model: BayesianNetwork, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of gates, by site: open where any of the weights that one holds is in."""
    found: dict[str, Tensor] = {}
    for name, prior in model.priors.items():
        site = _gate_of(prior)
        if site is None:
            continue
        values = _gate_values(prior, site, masks[name])
        found[site] = found[site] | values if site in found else values
    return found


def _gate_values(prior: TensorPrior, site: str, mask: Tensor) -> Tensor:
    """One boolean a gate: whether any of its weights is in."""
    latent = prior.latent_of(site)
    with torch.enable_grad():
        number = torch.zeros(prior.sites[latent].shape, device=mask.device, requires_grad=True)
        (counts,) = torch.autograd.grad(prior.spread(latent, number), number, mask.to(number.dtype))
    return counts > 0


def _is_parted(prior: TensorPrior, mask: Tensor, given: set[str]) -> bool:
    """Whether given gates do not say all of a mask: there are none, or it parts what one of them holds together."""
    site = _gate_of(prior)
    if site is None or site not in given:
        return not bool(mask.all())
    values = _gate_values(prior, site, mask)
    return not bool((prior.spread(prior.latent_of(site), values.float()).bool() == mask).all())


def _digest(masks: Mapping[str, Tensor]) -> str:
    """Of masks of which some may be empty."""
    filled = {name: mask for name, mask in masks.items() if bool(mask.any())}
    return GivenMasks.of(filled).digest
