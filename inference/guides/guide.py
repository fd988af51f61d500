"""Guides: q over every latent of a Bayesian network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from fnmatch import fnmatchcase

import pyro
import torch
from torch import Tensor, nn

from bayesprune.inference.guides import hard_concrete, truncated_lognormal  # noqa: F401  their families register themselves
from bayesprune.inference.guides.factors import Factor
from bayesprune.inference.guides.families import Family, GatedFamily
from bayesprune.inference.guides.gate_family import GateFamily
from bayesprune.inference.guides.identified import identified_tensor
from bayesprune.inference.guides.paired import Pair, PairedFamily
from bayesprune.inference.guides.registry import (
    POINT,
    choosable_families,
    is_point,
    mean_field_family,
    registered_family,
)
from bayesprune.inference.guides.starting_values import starting_values
from bayesprune.inference.ways.way_family import WayFamily, family_of_way
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.pyro_parameters import name_parameters
from bayesprune.models.language.tensor_prior import Site, TensorPrior

MODES = ("map", "meanfield", "paired")
GATE_START_SD, HIDDEN_GATE_START_SD = 2.0, 0.5
"""Of the log odds at which gates of further restarts start: of a regression, where from 0.9 most go to between 0.15 and
0.998; of networks with hidden units, where 2 left twice as many weights in as 0.5 and as no move at all (digits)."""

GuideChoice = str | Mapping[str, str] | None


class Guide(nn.Module):
    """q over every site of a model, independent across sites but for the pairs of spike and slab.

    It is a Pyro guide, ``guide(x, y)``, for `Trace_ELBO`, `Predictive` or `poutine`; its parameters exist from the
    start. `bayesprune.inference.objective.objective.Objective` asks it for `draw` instead.

    Args:
        model: The model; the guide starts at its network's weights.
        choice: ``"map"`` (points), ``"meanfield"`` (Normal, LogNormal, logit-Normal, Bernoulli by support),
            ``"paired"`` (mean-field, with q(slab | gate) for spike and slab), or a mapping from names of latents or
            patterns of sites to families (`choosable_families`); what it leaves out takes the prior's default. Default
            None: each prior's own default.

    Attributes:
        choice: The choice that it was made by.
        family_of: The guide family of each site by name, those of ways among them.
        notes: Sentences worth telling the user.

    Raises:
        ValueError: If a family does not fit a latent's support, or nothing can be paired where asked.
    """

    def __init__(self, model: BayesianNetwork, choice: GuideChoice = None) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the model's parameters are not the guide's
        self.choice = dict(choice) if isinstance(choice, Mapping) else choice
        self.notes: list[str] = []
        self.family_of = assign_families(model, choice)
        starts: dict[str, Tensor] = {}
        shared: dict[str, Tensor] = {}
        for name, prior in model.priors.items():
            values, note = starting_values(prior, model.starting_weights(name), shared)
            if note:
                self.notes.append(note)
            for latent, value in values.items():
                starts.setdefault(prior.sites[latent].name, value)
        self.families = nn.ModuleList(_build(model, self.family_of, starts))
        for way in model.ways:
            if sum(way.name == other.name for other in model.ways) > 1:
                raise ValueError(f"two ways of the model are called {way.name!r}: give each a name of its own")
            for q in family_of_way(way, next(model.network.parameters())):
                self._add_way(way.name, q)

    def _add_way(self, name: str, q: WayFamily) -> None:
        """Takes the guide of a way as a module under the way's own name, by which files know its tensors."""
        if not name.isidentifier() or getattr(self, name, None) is not None:
            raise ValueError(f"a way needs a name of its own, such as 'masks', not {name!r}: set its attribute name")
        setattr(self, name, q)
        self.family_of |= q.family_of()

    @property
    def ways(self) -> dict[str, WayFamily]:
        """The guides of the model's ways that draw something, by name; none for a model without such ways."""
        return {name: q for name, q in self.named_children() if isinstance(q, WayFamily)}

    @property
    def gates(self) -> GateFamily | None:
        """The guide of gates of units among those of the ways, or None."""
        return next((q for q in self.ways.values() if isinstance(q, GateFamily)), None)

    @property
    def model(self) -> BayesianNetwork:
        """The model that this guide was made for."""
        return self._model[0]

    @property
    def is_map(self) -> bool:
        """Whether every site is a point."""
        return all(is_point(family) for family in self.family_of.values())

    @property
    def is_certain(self) -> bool:
        """Whether all draws are the same: points everywhere, and gates that are open or closed for good."""
        return self.is_point_but_for_gates and all(q.is_certain() for q in self.ways.values())

    @property
    def is_point_but_for_gates(self) -> bool:
        """Whether every site of a prior on a tensor is a point."""
        return all(self.are_points(prior) for prior in self.model.priors.values())

    def are_points(self, prior: TensorPrior) -> bool:
        """Whether every site of a prior on a tensor is a point."""
        return all(is_point(self.family_of[site.name]) for site in prior.sites.values())

    @torch.no_grad()
    def vary_gates(self) -> None:
        """Moves the log odds of all gates at random: where a further restart starts.

        From one start the probabilities of correlated weights always come to the same of several optima.
        """
        sd = HIDDEN_GATE_START_SD if identified_tensor(self.model) is None else GATE_START_SD
        for family in self.families:
            for logit in family.gate_logits():  # type: ignore[operator]
                logit += sd * torch.randn_like(logit)

    @torch.no_grad()
    def give_gates(self, values: Mapping[str, Tensor]) -> set[str]:
        """Fixes Bernoulli gates for good, IN PLACE: see `GatedFamily.give_gates`.

        Args:
            values: Booleans of the shape of each site of gates, by its name.

        Returns:
            Names of the sites that are given now: a family's gates are given together, or none of them.
        """
        given: set[str] = set()
        for family in self.families:
            if not isinstance(family, GatedFamily):
                continue
            names = {site.name for site in family.gate_sites()}
            if names <= set(values):
                family.give_gates(values)
                given |= names
        return given

    def draw(self, at_centre: Collection[str] = ()) -> dict[str, Factor]:
        """Draws every site once with gradients; gates keep their probabilities for the gate estimator.

        Args:
            at_centre: Names of sites of which nothing is drawn, as `Family.at_centre` has it; default none.
        """
        factors: dict[str, Factor] = {}
        for family in self.families:
            with family.at_centre(at_centre) if at_centre else nullcontext():  # type: ignore[operator]
                factors.update(family.draw())  # type: ignore[operator]
        return factors

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by ``"location"`` (slow) and ``"spread"`` (log scales of weights, log odds: fast)."""
        groups: dict[str, list[nn.Parameter]] = {"location": [], "spread": []}
        for family in self.families:
            for name, parameters in family.groups().items():  # type: ignore[operator]
                groups[name] += parameters
        return groups

    def forward(self, x: Tensor | None = None, y: Tensor | None = None) -> dict[str, Tensor]:
        """The Pyro guide: samples every site; gates are real Bernoullis.

        Returns:
            Drawn values by name of site.
        """
        name_parameters(self, self)
        factors = self.draw()
        values = self._run(lambda site, fn: pyro.sample(site, fn), factors)
        for q in self.ways.values():
            values |= q()
        return values

    @torch.no_grad()
    def sample(self) -> dict[str, Tensor]:
        """One draw from q without gradients and without Pyro: values by name of site."""
        values = self._run(lambda _, fn: fn.sample(), self.draw())
        for q in self.ways.values():
            values |= q.sample()
        return values

    @torch.no_grad()
    def means(self) -> dict[str, Tensor]:
        """The point of each site: median of its factor; for a gate its probability, for a slab E[slab | included].

        The values of `DeltaFactor`s and the locations of Normals are those; a LogNormal's is its median, a truncated
        log-Normal's its mean, a hard concrete gate's that of the trained network.
        """
        values = self.inclusion()
        for family in self.families:  # not from a draw: looking at a guide takes no random numbers
            values |= family.centres()  # type: ignore[operator]
        return values | self.way_probabilities()

    def way_probabilities(self) -> dict[str, Tensor]:
        """Probabilities of ones of what the ways draw, by site, without gradients."""
        return {site: value for q in self.ways.values() for site, value in q.probabilities().items()}

    def ways_decided(self, threshold: float = 0.5) -> dict[str, Tensor]:
        """Ones where these exceed a threshold, else zeros, by site; default 1/2."""
        return {site: value for q in self.ways.values() for site, value in q.decided(threshold).items()}

    def open_units(self, threshold: float) -> dict[str, Tensor]:
        """Which weights the ways leave in, by tensor, `(out, in, ...)`; none for a model without ways.

        Masks leave in what they are one for, gates of units what meets only gates of more than a threshold.
        """
        return {name: there > 0 for name, there in self.model.open_at(self.ways_decided(threshold)).items()}

    def inclusion(self) -> dict[str, Tensor]:
        """q(gate != 0) of every gate by name, in closed form."""
        return {name: logit.sigmoid() for name, logit in self.log_odds().items()}

    def log_odds(self) -> dict[str, Tensor]:
        """Log q(gate != 0) / q(gate = 0) of every gate by name: keeps the order of what rounds to 1."""
        found: dict[str, Tensor] = {}
        for family in self.families:
            found |= family.log_odds()  # type: ignore[operator]
        return found

    def _run(self, draw, factors: dict[str, Factor]) -> dict[str, Tensor]:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Visits the sites in the model's order, so that a slab knows its gate and its prior."""
        values: dict[str, Tensor] = {}

        def visit(site: str, prior: Iid) -> Tensor:
            fn = factors[site].conditioned(values, prior)
            values[site] = draw(site, fn.to_event(len(fn.batch_shape)))
            return values[site]

        shared: dict[str, Tensor] = {}
        for name, prior in self.model.priors.items():
            prior.run(visit, self.model.network.get_parameter(name), shared)
        return values


def weight_families(model: BayesianNetwork, choice: GuideChoice = None) -> list[str]:
    """The guide families of all sites of the priors on weights; of a model without matrices, of all priors.

    Args:
        model: The model.
        choice: As for `Guide`.
    """
    families = assign_families(model, choice)
    names = model.matrices or tuple(model.priors)
    return [families[site.name] for name in names for site in model.priors[name].sites.values()]


def assign_families(model: BayesianNetwork, choice: GuideChoice = None) -> dict[str, str]:
    """Returns the guide family of each site: one that its latent can choose, or ``"paired"``.

    A mapping wins over a latent's own `guide`, that over the mode of the fit, that over the prior's default.

    Raises:
        ValueError: As `Guide`.
    """
    if choice is not None and not isinstance(choice, (str, Mapping)):
        raise ValueError(
            f"a guide is chosen by a name ({', '.join(MODES)}) or a mapping by latent, not by an object of type "
            f"{type(choice).__name__}: fit a guide of your own by pyro.infer.SVI(model, guide, ...)"
        )
    if isinstance(choice, str) and choice not in MODES:
        raise ValueError(f"guide {choice!r} is unknown: expected one of {', '.join(MODES)}, or a mapping by latent")
    mapping = dict(choice) if isinstance(choice, Mapping) else {}
    _check_mapping(mapping, model)
    families: dict[str, str] = {}
    any_pair = False
    for prior in model.priors.values():
        mode = choice if isinstance(choice, str) else prior.hierarchy.default_guide
        chosen = {
            latent: next((f for key, f in mapping.items() if key == latent or fnmatchcase(site.name, key)), site.guide)
            for latent, site in prior.sites.items()
        }
        pair = _pair(prior) or ()
        if mode != "paired" or any(chosen.get(latent, "absent") is not None for latent in pair):
            pair = ()  # one of the two was given a family of its own
        any_pair = any_pair or bool(pair)
        for latent, site in prior.sites.items():
            families[site.name] = "paired" if latent in pair else chosen[latent] or _by_mode(mode, site)
            _check_support(site, families[site.name])
    if choice == "paired" and not any_pair:
        raise ValueError(
            "guide='paired' needs a prior with a gate and a slab, such as SpikeAndSlab or "
            "included=exact_zero(gate=..., slab=...): use 'meanfield' or 'map' here"
        )
    return families


def _check_mapping(mapping: Mapping[str, str], model: BayesianNetwork) -> None:
    for key, family in mapping.items():
        if family not in choosable_families():
            raise ValueError(f"guide family {family!r} is unknown: expected one of {', '.join(choosable_families())}")
        if not any(key == site.latent or fnmatchcase(name, key) for name, site in model.sites.items()):
            raise ValueError(f"guide= names {key!r}, which matches no latent: the sites are {', '.join(model.sites)}")


def _check_support(site: Site, family: str) -> None:
    if family == "paired":
        return
    if family not in choosable_families():
        known = ", ".join(choosable_families())
        raise ValueError(f"{site.name}: guide family {family!r} is unknown: expected one of {known}")
    supports = registered_family(family).supports
    if site.support not in supports:
        if site.support == "boolean":
            raise ValueError(
                f"{site.name} is a Bernoulli, which has no {family} guide: use guide='paired' or 'meanfield'"
            )
        raise ValueError(
            f"{site.name} has {site.support} values, but the {family} guide is for "
            f"{' or '.join(supports)} ones: choose another family for {site.latent}"
        )


def _by_mode(mode: str, site: Site) -> str:
    if mode == "map":
        return POINT
    family = mean_field_family(site.support)
    if family is None:
        raise ValueError(
            f"{site.name} has a support for which there is no mean-field family: let {site.latent} be real, positive "
            "or in [0, 1], and transform it where it is used"
        )
    return family


def _pair(prior: TensorPrior) -> tuple[str, str] | None:
    event = prior.hierarchy.included
    if event is None or event.gate is None or event.slab is None:
        return None
    return event.gate, event.slab


def _build(model: BayesianNetwork, family_of: dict[str, str], starts: dict[str, Tensor]) -> list[Family]:
    """One module for each family and support, in the order in which they first appear."""
    grouped: dict[tuple[str, str], list[Site]] = {}
    for name, site in model.sites.items():
        if family_of[name] != "paired":
            grouped.setdefault((family_of[name], site.support), []).append(site)
    built: list[Family] = []
    for (family, _), sites in grouped.items():
        one = registered_family(family).build(sites, starts)
        assert isinstance(one, Family)
        built.append(one)
    pairs = []
    for prior in model.priors.values():
        named = _pair(prior)
        if named is not None and family_of[prior.sites[named[0]].name] == "paired":
            gate = prior.hierarchy.latents[named[0]]
            pairs.append(Pair(prior.sites[named[0]], prior.sites[named[1]], gate.block, gate.gates))
    return [*built, PairedFamily(pairs, starts)] if pairs else built


__all__ = ["MODES", "Guide", "GuideChoice", "assign_families"]
