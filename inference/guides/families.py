"""Guide families: what q looks like over the sites that share a family, stored in flat vectors.

All sites of one family live in one vector a parameter (one draw of noise, one exponential, one optimizer step
for the whole network), cut into sites by `torch.split`, whose gradient is a single concatenation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from bayesprune.inference.guides.factors import (
    BernoulliFactor,
    DeltaFactor,
    Factor,
    GivenGateFactor,
    LogitNormalFactor,
    LogNormalFactor,
    NormalFactor,
)
from bayesprune.inference.guides.functional import is_functional
from bayesprune.inference.guides.normal_draw import NormalDraw
from bayesprune.inference.guides.registry import family
from bayesprune.inference.guides.slices import Layout, ParameterSlice
from bayesprune.models.language.tensor_prior import Site

RELATIVE_SPREAD = 0.1
"""A guide's standard deviations start at this share of its site's root mean square (in log space: this number)."""
GIVEN_LOG_ODDS = 1024.0
"""Log odds of gates that are given, in size: finite, as a file needs it, and of a sigmoid that is exactly 0 or 1 in
double precision too."""
SMALL_SITE = 4
"""Sites of at most this many entries are followed entry by entry; larger ones by one number."""


class Family(nn.Module):
    """Flat parameters of the sites that share a guide family.

    Args:
        sites: The sites.
        starts: Starting value of each site, in the site's own space.

    Attributes:
        left_at_centre: Names of the sites of which nothing is drawn at present, see `at_centre`.
    """

    def __init__(self, sites: Sequence[Site], starts: dict[str, Tensor]) -> None:
        super().__init__()
        self._given: dict[str, list[Tensor]] | None = None
        self.left_at_centre: frozenset[str] = frozenset()
        self.layout = Layout(sites)
        self.sites = self.layout.sites
        self.build(torch.cat([starts[site.name].detach().expand(site.shape).reshape(-1) for site in sites]))

    def build(self, start: Tensor) -> None:
        """Creates the parameters from the flat starting values."""
        raise TypeError(f"{type(self).__name__} must define build")

    def draw(self) -> dict[str, Factor]:
        """Draws every site once; returns its factors by name of site."""
        raise TypeError(f"{type(self).__name__} must define draw")

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters as ``"location"`` (slow) and ``"spread"`` (log scales of weights, log odds: fast)."""
        raise TypeError(f"{type(self).__name__} must define groups")

    def layout_of(self, parameter: str) -> Layout:
        """Whose entries the flat parameter of that name holds, in which order."""
        return self.layout

    def slices(self) -> tuple[ParameterSlice, ...]:
        """The slices of all flat parameters, each with its site."""
        names = [name for name, _ in self.named_parameters(recurse=False)]
        return tuple(piece for name in names for piece in self.layout_of(name).slices(name))

    def cut(self, flat: Tensor) -> list[Tensor]:
        """Cuts a flat vector into tensors of the sites' shapes."""
        return self.layout.cut(flat)

    def pieces(self, parameter: str) -> list[Tensor]:
        """The flat parameter of that name cut into what belongs to each site; what `given` says, inside it."""
        if self._given is not None:
            return self._given[parameter]
        return self.layout_of(parameter).cut(getattr(self, parameter))

    def noise(self, parameter: str) -> list[Tensor]:
        """Standard normal noise of the shapes of a parameter's pieces, by one draw of `torch.randn_like`."""
        return self.layout.cut(torch.randn_like(torch.cat([piece.reshape(-1) for piece in self.pieces(parameter)])))

    @contextmanager
    def at_centre(self, sites: Collection[str]) -> Iterator[None]:
        """Lets `draw` draw nothing of some sites inside: the value of a Normal is then its location, without noise.

        A family that knows nothing of it draws all the same; whoever asks looks at what came.

        Args:
            sites: Names of sites, of whatever family.
        """
        before, self.left_at_centre = self.left_at_centre, frozenset(site.name for site in self.sites) & set(sites)
        try:
            yield
        finally:
            self.left_at_centre = before

    def centres(self) -> dict[str, Tensor]:
        """The point of each site by name, in its own space; none for gates, whose point is their probability."""
        return {}

    def summaries(self) -> dict[str, float]:
        """Numbers by which the trace follows the sites, by what they are of; none by default."""
        return {}

    def gate_sites(self) -> tuple[Site, ...]:
        """The sites whose draw is left to the gate estimator; none by default."""
        return ()

    def log_odds(self) -> dict[str, Tensor]:
        """Log q(gate != 0) / q(gate = 0) of each gate by name; none where there are no gates."""
        return {}

    def gate_logits(self) -> list[nn.Parameter]:
        """Flat log odds of gates, which further restarts start elsewhere; none where there are no gates."""
        return []

    @contextmanager
    def given(self, pieces: dict[str, list[Tensor]]) -> Iterator[None]:
        """Lets tensors stand for the pieces of the flat parameters, by name of parameter.

        In the functional form every site is then computed from its own tensors, with no vector to cut and to join.
        """
        self._given = pieces
        try:
            yield
        finally:
            self._given = None


def to_unconstrained(value: Tensor, support: str) -> Tensor:
    """Maps a value of a site to the real line: identity, logarithm or logit."""
    if support == "positive":
        return value.log()
    return torch.logit(value) if support == "unit" else value


def to_support(value: Tensor, support: str) -> Tensor:
    """Maps the real line to a site's support: identity, exponential or sigmoid."""
    if support == "positive":
        return value.exp()
    return value.sigmoid() if support == "unit" else value


class LocatedFamily(Family):
    """Sites with a place on the real line each, of the value, its logarithm or its logit: the vector `location`."""

    location: nn.Parameter

    def centres(self) -> dict[str, Tensor]:
        """The location of each site, in the site's own space."""
        cut = zip(self.sites, self.cut(self.location.detach()), strict=True)
        return {site.name: to_support(part, site.support) for site, part in cut}

    def summaries(self) -> dict[str, float]:
        """Locations of small sites entry by entry; of larger ones the mean, of larger real ones the rms."""
        found: dict[str, float] = {}
        for site, part in zip(self.sites, self.location.split(self.layout.sizes), strict=True):
            prefix = {"positive": "log ", "interval": "log ", "unit": "logit "}.get(site.support, "")
            if part.numel() <= SMALL_SITE:
                for index, value in enumerate(part.tolist()):
                    found[f"{prefix}{site.name}[{index}]" if part.numel() > 1 else f"{prefix}{site.name}"] = value
            elif site.support == "real":
                found[f"rms {site.name}"] = float(part.square().mean().sqrt())
            else:
                found[f"mean {prefix}{site.name}"] = float(part.mean())
        return found


@family("delta", supports=("real", "positive", "unit"), has_density=False)
class DeltaFamily(LocatedFamily):
    """Points; positive and unit-interval sites by their logarithm and logit.

    The density is that of the site itself, with no Jacobian: a MAP does not depend on these coordinates.
    """

    def build(self, start: Tensor) -> None:
        """Creates `location`."""
        self.location = nn.Parameter(to_unconstrained(start, self.sites[0].support))

    def draw(self) -> dict[str, Factor]:
        """Returns the points."""
        support = self.sites[0].support
        locations = self.pieces("location")
        if is_functional():
            values = [to_support(location, support) for location in locations]
        else:
            values = self.layout.cut(to_support(self.location, support))
        logarithms = locations if support == "positive" else [None] * len(locations)
        points = zip(self.sites, values, logarithms, strict=True)
        return {site.name: DeltaFactor(value, logarithm) for site, value, logarithm in points}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Real points are locations; logarithms and logits are spreads."""
        return {"location" if self.sites[0].support == "real" else "spread": [self.location]}


@family("normal", supports=("real",), mean_field=True)
class NormalFamily(LocatedFamily):
    """Independent Normals on the real line."""

    def build(self, start: Tensor) -> None:
        """Creates `location` and `log_scale`."""
        location = to_unconstrained(start, self.sites[0].support)
        self.location = nn.Parameter(location)
        self.log_scale = nn.Parameter(starting_log_scale(self, location))

    def draw(self) -> dict[str, Factor]:
        """Draws all the sites with one vector of noise."""
        return {site.name: self.factor(value, *normal) for site, value, *normal in draw_normals(self)}

    def factor(self, value: Tensor, location: Tensor, log_scale: Tensor, sums: Tensor) -> NormalFactor:
        """The factor of one site.

        Args:
            value: The draw on the real line.
            location: As `NormalFactor` has it.
            log_scale: Likewise.
            sums: Likewise.
        """
        return NormalFactor(value, location, log_scale, sums)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Log scales are spreads."""
        return {"location": [self.location], "spread": [self.log_scale]}


@family("lognormal", supports=("positive",), mean_field=True)
class LogNormalFamily(NormalFamily):
    """Exponentials of independent Normals."""

    def factor(self, value: Tensor, location: Tensor, log_scale: Tensor, sums: Tensor) -> LogNormalFactor:
        """The factor of one site, of its drawn logarithm."""
        return LogNormalFactor(value.exp(), location, log_scale, sums, value)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """All are locations, the log scales too.

        Hyper-parameters that run ahead of the weights shrink them away before the data have spoken (seen: a horseshoe
        on 1,293 images fell to the empty network).
        """
        return {"location": [self.location, self.log_scale]}


@family("logitnormal", supports=("unit",), mean_field=True)
class LogitNormalFamily(NormalFamily):
    """Sigmoids of independent Normals."""

    def factor(self, value: Tensor, location: Tensor, log_scale: Tensor, sums: Tensor) -> LogitNormalFactor:
        """The factor of one site, of its drawn logit."""
        return LogitNormalFactor(value.sigmoid(), location, log_scale, sums)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """All are locations, as those of a `LogNormalFamily` are."""
        return {"location": [self.location, self.log_scale]}


class GatedFamily(Family):
    """A family whose vector `logit` holds log odds of Bernoulli gates, learned or given.

    Of gates that are given it is a buffer of the same name, of `GIVEN_LOG_ODDS` in size: no optimizer sees it, no graph
    differentiates it, and a state that holds such numbers makes given gates of whatever it is loaded into.

    Attributes:
        logit: Log odds of a one; a parameter, or a buffer where the gates are given.
        gate_layout: Whose they are.
    """

    logit: Tensor
    gate_layout: Layout

    def begin_gates(self, layout: Layout, start: Tensor) -> None:
        """Creates `logit` of gates that are learned.

        Args:
            layout: Whose log odds they are.
            start: Starting probabilities, flat.
        """
        self.gate_layout = layout
        self.logit = nn.Parameter(torch.logit(start))
        self.register_load_state_dict_post_hook(_as_loaded)

    @property
    def has_given_gates(self) -> bool:
        """Whether the gates are given, exactly zero or one for good."""
        return not isinstance(self.logit, nn.Parameter)

    def give_gates(self, values: Mapping[str, Tensor]) -> None:
        """Makes the gates given ones, IN PLACE; an optimizer and a graph that know of the parameter are of before.

        Args:
            values: Booleans of the shape of each site of gates, by its name.
        """
        flat = torch.cat([values[site.name].expand(site.shape).reshape(-1) for site in self.gate_layout.sites])
        flat = flat.to(self.logit.device)
        log_odds = torch.where(flat, GIVEN_LOG_ODDS, -GIVEN_LOG_ODDS).to(self.logit.dtype)
        del self.logit
        self.register_buffer("logit", log_odds)

    def gate_factors(self) -> list[BernoulliFactor]:
        """The factor of each site of gates; nothing is drawn here."""
        if self.has_given_gates:
            logits = self.gate_layout.cut(self.logit)
            return [GivenGateFactor((logit > 0).to(logit.dtype), logit) for logit in logits]
        logits = self.pieces("logit")
        cut = [each.sigmoid() for each in logits] if is_functional() else self.gate_layout.cut(self.logit.sigmoid())
        return [BernoulliFactor(probability, logit) for probability, logit in zip(cut, logits, strict=True)]

    def gate_logits(self) -> list[nn.Parameter]:
        """The log odds of a one, where they are learned."""
        return [self.logit] if isinstance(self.logit, nn.Parameter) else []

    def log_odds(self) -> dict[str, Tensor]:
        """Log odds of a one, of the gates."""
        return self.gate_layout.by_name(self.logit.detach())

    def gate_sites(self) -> tuple[Site, ...]:
        """The gates."""
        return self.gate_layout.sites


def _as_loaded(module: nn.Module, _: Any) -> None:
    """Has gates be given or learned as what was loaded says."""
    assert isinstance(module, GatedFamily)
    logit = module.logit.detach()
    if bool((logit.abs() == GIVEN_LOG_ODDS).all()):
        module.give_gates({name: part > 0 for name, part in module.gate_layout.by_name(logit).items()})
    elif module.has_given_gates:
        del module.logit
        module.logit = nn.Parameter(logit)


@family("bernoulli", supports=("boolean",), mean_field=True)
class BernoulliFamily(GatedFamily):
    """Independent Bernoullis; what a draw of a gate is, the gate estimator decides."""

    def build(self, start: Tensor) -> None:
        """Creates `logit` from starting probabilities."""
        self.begin_gates(self.layout, start)

    def draw(self) -> dict[str, Factor]:
        """Returns the probabilities; nothing is drawn here."""
        return {site.name: gate for site, gate in zip(self.sites, self.gate_factors(), strict=True)}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Log odds are a spread."""
        return {"spread": self.gate_logits()}

    def summaries(self) -> dict[str, float]:
        """The mean probability of each site."""
        return mean_probabilities(self.layout, self.logit)


def mean_probabilities(layout: Layout, logit: Tensor) -> dict[str, float]:
    """The mean probability of each site of gates, as `Family.summaries` has it."""
    parts = layout.by_name(logit.sigmoid())
    return {f"mean {name}": float(part.mean()) for name, part in parts.items()}


def draw_normals(family: Family) -> list[tuple[Site, Tensor, Tensor, Tensor, Tensor]]:
    """Draws the Normals of a family: for each site its value on the real line, location, log scale and sums.

    The value of a site that is left at its centre is its location.
    """
    if is_functional() or family.left_at_centre:
        return _draw_by_site(family)
    location, log_scale = cast(Tensor, family.location), cast(Tensor, family.log_scale)
    sums, *values = NormalDraw.apply(location, log_scale, torch.randn_like(location), family.layout.sizes)
    shaped = [value.view(site.shape) for value, site in zip(values, family.sites, strict=True)]
    cut = (shaped, family.layout.cut(location), family.layout.cut(log_scale), sums.unbind(dim=1))
    return list(zip(family.sites, *cut, strict=True))


def _draw_by_site(family: Family) -> list[tuple[Site, Tensor, Tensor, Tensor, Tensor]]:
    """The same in plain operations, site by site; one vector of noise for all that are drawn, as above."""
    locations, log_scales = family.pieces("location"), family.pieces("log_scale")
    if family.left_at_centre:
        noises = _noise_of_drawn(family, locations)
    else:
        noises = list(family.noise("location"))
    drawn = []
    for site, location, log_scale, noise in zip(family.sites, locations, log_scales, noises, strict=True):
        scale = log_scale.exp()
        sums = torch.stack([(location.square() + scale.square()).sum(), log_scale.sum()])
        value = location if noise is None else location + scale * noise
        drawn.append((site, value, location, log_scale, sums))
    return drawn


def _noise_of_drawn(family: Family, locations: Sequence[Tensor]) -> list[Tensor | None]:
    """Noise of the sites that are drawn, None for the others; none at all where no site is drawn."""
    is_drawn = [site.name not in family.left_at_centre for site in family.sites]
    parts = [location.reshape(-1) for location, drawn in zip(locations, is_drawn, strict=True) if drawn]
    if not parts:
        return [None] * len(locations)
    cut = iter(torch.randn_like(torch.cat(parts)).split([len(part) for part in parts]))
    pairs = zip(locations, is_drawn, strict=True)
    return [next(cut).view(location.shape) if drawn else None for location, drawn in pairs]


def starting_log_scale(family: Family, location: Tensor) -> Tensor:
    """Log standard deviations to start from: `RELATIVE_SPREAD`, or what the latent says, times a real site's rms."""
    parts = []
    for site, part in zip(family.sites, location.split(family.layout.sizes), strict=True):
        size = part.square().mean().sqrt().clamp_min(1e-3) if site.support == "real" else part.new_ones(())
        spread = RELATIVE_SPREAD if site.spread is None else site.spread
        parts.append((spread * size).log().expand(part.shape))
    return torch.cat(parts).clone()
