"""Whether the guide is near the posterior: Pareto k-hat of log p - log q, by block or in all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayesprune.analysis.diagnostics.log_densities import LogDensities, check_density
from bayesprune.analysis.diagnostics.pareto_smoothing import GOOD, largest_khat, pareto_smoothed
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.fast_distributions import fast_distributions
from bayesprune.inference.guides.registry import has_density
from bayesprune.inference.restart import Restart

JOINT = "joint"
LARGEST_BLOCK = 30
"""Entries up to which a site makes a block by itself."""


@dataclass(frozen=True)
class BlockKhat:
    """The k-hat of one block.

    Attributes:
        name: Of the block; ``"joint"`` for all sites together.
        entries: How many numbers it has.
        khat: Shape of the tail of the importance ratios: minus infinity where they are all equal, NaN where there is
            no tail to fit.
        verdict: ``"good"`` (below 1/2), ``"usable"`` (up to the threshold), ``"unreliable"``
            or ``"cannot tell"``.
    """

    name: str
    entries: int
    khat: float
    verdict: str


@dataclass(frozen=True)
class ParetoKhat:
    """What `pareto_khat` found; print it, or read `blocks`.

    Attributes:
        blocks: One entry a block.
        draws: Draws of the guide behind each.
        threshold: The k-hat above which importance sampling with that many draws is unreliable.
        examples: Examples behind the likelihood.
        data_size: Examples of the fit.
        has_gates: Whether there are gates, of which nothing is said.
        kl_weight: Of the fit; where it is not 1 the guide aims at another target than the posterior.
    """

    blocks: tuple[BlockKhat, ...]
    draws: int
    threshold: float
    examples: int
    data_size: int
    has_gates: bool = False
    kl_weight: float = 1.0

    def __str__(self) -> str:
        width = max((len(block.name) for block in self.blocks), default=0)
        lines = [f"Pareto k-hat of {self.draws} draws, unreliable above {self.threshold:.2f}"]
        lines += [f"{b.name:<{width}}{b.entries:>9,}{b.khat:>7.2f}  {b.verdict}" for b in self.blocks]
        if any(block.name != JOINT for block in self.blocks):
            lines.append("of blocks given the guide's centre elsewhere: dependence between blocks is not seen")
        if self.has_gates:
            lines.append(
                "gates are in no block: what the guide never draws no importance weight brings back, so that a good "
                "k-hat is no proof of inclusion probabilities"
            )
        if self.kl_weight != 1.0:
            lines.append(
                f"the guide is tempered, KL weight {self.kl_weight:g}, and compared with the model's own posterior, "
                "which is wider than what it aims at: fit with kl_weight=1 to judge the guide"
            )
        if self.examples < self.data_size:
            lines.append(f"the likelihood is that of {self.examples:,} of {self.data_size:,} examples, scaled")
        return "\n".join(lines)


def pareto_khat(
    fit: Fit,
    data: tuple[Tensor, Tensor],
    draws: int = 1000,
    blocks: Mapping[str, Sequence[str]] | None = None,
    joint: bool = False,
    examples: int | None = None,
    restart: int = 0,
    seed: int = 0,
) -> ParetoKhat:
    """Pareto k-hat of the importance ratios of posterior over guide (Yao, Vehtari, Simpson & Gelman 2018).

    For a block b of sites it is the **conditional k-hat**: b is drawn from the guide, all other sites r are held at the
    guide's centre c (`Guide.means`: medians; gates at their likelier value), and the ratios are

        p(data, b, r = c) / q(b),  up to a constant  p(b | r = c, data) / q(b).

    It says how well q(b) fits the posterior of the block given the rest; the marginal posterior of a block cannot be
    had from draws of the guide, whose importance weights are those of all sites. Dependence between the block and the
    rest, which a mean-field guide leaves out, is not seen: a good value is no proof that the marginal is right. A bad
    one may also mean that the centre is an unusual point of r (an empty one, for weights whose mean is near zero).

    The ``"joint"`` k-hat is that of all sites, and does see it. It grows with the number of entries and is bad for
    every network however near the guide is, so it is computed only where asked for, and decides nothing.

    A slab of the paired guide is drawn given its gate, so it is no block by itself: only the joint sees it. Inclusion
    probabilities are not mended by importance weights: where inputs are correlated the guide never draws the models
    that it has left out, and the k-hat of those that it draws may be good. Several restarts, `Fit.combined`, see more.

    All is computed in float64 on a copy. The posterior is the model's own, at KL weight 1, whatever the fit's was.

    Args:
        fit: The fit.
        data: All training data, `(x, y)`.
        draws: Draws of the guide; default 1000. Fewer than 100 cannot tell.
        blocks: Names of sites by name of block, for blocks of one's own; default None: each continuous site of up to 30
            entries by itself.
        joint: Whether to add the joint k-hat; default False.
        examples: Number of examples, drawn at random, whose log-likelihood stands for that of all, scaled; the
            posterior is then another one, that of these examples. Default None: all.
        restart: Which restart; default the first.
        seed: Chooses the examples; default 0.

    Returns:
        A k-hat a block, with what it means.

    Raises:
        ValueError: For a MAP, and for the joint of a guide with points; if there is no such restart; if a block is
            empty or names what is no continuous site with a density; if there is neither a block nor `joint`; if `data`
            are not all the data, or a number is out of range.
    """
    one = fit.restart(restart)
    if one.guide.is_map:
        raise ValueError("this fit is a MAP: points have no density to compare with; fit with guide='meanfield'")
    if joint:
        check_density(one, "the joint k-hat")
    chosen = _blocks(one, blocks)
    if not chosen and not joint:
        raise ValueError(
            f"no continuous site (but for slabs given their gates) has {LARGEST_BLOCK} entries or fewer: name sites by "
            "blocks=, or ask for joint=True"
        )
    x, y = _examples(one, data, examples, seed)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    ratios, varies = _ratios(LogDensities(fit, restart, data), chosen, joint, x, y, draws)
    threshold = largest_khat(draws)
    found = []
    for name, values in ratios.items():
        khat = pareto_smoothed(values)[1] if varies[name] else math.nan
        found.append(BlockKhat(name, _entries(one, chosen.get(name)), khat, _verdict(khat, threshold)))
    has_gates = any(site.support == "boolean" for site in one.model.sites.values())
    weight = fit.settings.get("kl_weight")
    weight = 1.0 if weight is None else float(weight)
    return ParetoKhat(tuple(found), draws, threshold, len(x), one.model.data_size, has_gates, weight)


def _continuous(one: Restart) -> list[str]:
    """Sites on which the guide has a density of their own: no points, no gates, no slabs given a gate."""
    sites, families = one.model.sites, one.guide.family_of
    own = [name for name in sites if has_density(families[name]) and families[name] != "paired"]
    return [name for name in own if sites[name].support != "boolean"]


def _entries(one: Restart, sites: Sequence[str] | None) -> int:
    """Numbers in a block; None: in all sites."""
    return sum(math.prod(one.model.sites[name].shape) for name in (one.model.sites if sites is None else sites))


def _blocks(one: Restart, blocks: Mapping[str, Sequence[str]] | None) -> dict[str, Sequence[str]]:
    known = _continuous(one)
    if blocks is None:
        return {name: [name] for name in known if math.prod(one.model.sites[name].shape) <= LARGEST_BLOCK}
    for name, sites in blocks.items():
        wrong = [site for site in sites if site not in known]
        if wrong or not sites or name == JOINT:
            what = f"names {wrong[0]!r}" if wrong else "is empty" if not sites else f"is called {JOINT!r}"
            has = ", ".join(known) or "here none"
            raise ValueError(f"the block {name!r} {what}: give it some of the sites with a density, {has}")
    return dict(blocks)


def _examples(one: Restart, data: tuple[Tensor, Tensor], examples: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """The examples whose likelihood is looked at."""
    x, y = data
    size = one.model.data_size
    if len(x) != size or len(y) != size:
        raise ValueError(f"data= has {len(x)} rows, but the fit had {size}: the posterior needs all of them")
    if examples is None:
        return x, y
    if not 1 <= examples <= size:
        raise ValueError(f"examples is a number from 1 to the {size} of the fit, not {examples}")
    rows = torch.as_tensor(np.random.default_rng(seed).choice(size, examples, replace=False))
    return x[rows], y[rows]


def _ratios(
    densities: LogDensities, blocks: Mapping[str, Sequence[str]], joint: bool, x: Tensor, y: Tensor, draws: int
) -> tuple[dict[str, np.ndarray], dict[str, bool]]:
    """Log importance ratios of each block, `(draws,)`, and whether its draws differ at all."""
    one = densities.one
    scale = one.model.data_size / len(x)
    binary = {name for name, site in one.model.sites.items() if site.support == "boolean"}
    centre = {name: value.round() if name in binary else value for name, value in one.guide.means().items()}
    weights_at_centre, _, _ = densities.at(centre)
    at_centre = float(densities.likelihoods(weights_at_centre, x, y).sum())
    sites = {**blocks, **({JOINT: list(one.model.sites)} if joint else {})}
    first: dict[str, Tensor] = {}
    varies = dict.fromkeys(sites, False)

    def of(draw: dict[str, Tensor]) -> list[float]:
        found = []
        for name, among in sites.items():
            values = {**centre, **{site: draw[site] for site in among}}
            weights, log_prior, log_guide = densities.at(values, among)
            moved = any(not torch.equal(weight, weights_at_centre[tensor]) for tensor, weight in weights.items())
            likelihood = float(densities.likelihoods(weights, x, y).sum()) if moved else at_centre
            found.append(scale * likelihood + log_prior - log_guide)
            flat = torch.cat([draw[site].flatten() for site in among])
            varies[name] |= not torch.equal(flat, first.setdefault(name, flat))
        return found

    with fast_distributions():
        rows = densities.fit.map_draws(of, draws)
    return dict(zip(sites, np.array(rows).T, strict=True)), varies


def _verdict(khat: float, threshold: float) -> str:
    if math.isnan(khat):
        return "cannot tell"
    if khat > threshold:
        return "unreliable"
    return "good" if khat < GOOD else "usable"
