"""The posterior given the structure: a refit against a Gaussian fit, conjugate regressions, and its own promises."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import bayesprune as bp
from bayesprune.inference.training import checkpoint as checkpoints
from bayesprune.inference.watching.callbacks import Callback

SD, DENSITY = 0.5, 0.3
GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(64, 6, generator=GENERATOR, dtype=torch.float64)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()
EXACT = {"precision": "float64", "device": "cpu", "batch_size": 16}
NAMES = ("0.weight", "2.weight")


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).double()


def model(prior, net=None):
    return bp.BayesianNetwork(net or network(), {"*.weight": prior}, likelihood=bp.Categorical(), data_size=len(X))


def spike(**more):
    return bp.SpikeAndSlab(**{"expected_density": DENSITY, "slab_sd": SD, **more})


@pytest.fixture(scope="module")
def fit():
    """Two restarts, so that each has a structure of its own."""
    return bp.fit(model(spike()), (X, Y), steps=60, restarts=2, learning_rate=0.01, kl_weight=0.3, **EXACT)


@pytest.fixture(scope="module")
def refitted(fit):
    return bp.refit(fit, (X, Y), steps=40, execution="plain")


def everything(fit):
    return {name: torch.ones(prior.shape, dtype=torch.bool) for name, prior in fit.model.priors.items()}


def half(fit):
    generator = torch.Generator().manual_seed(5)
    return {name: torch.rand(mask.shape, generator=generator) < 0.5 for name, mask in everything(fit).items()}


# -- against a fit without gates -------------------------------------------------------------------------------


class Seeded(Callback):
    """The same noise in every step, whatever was drawn before it: guides of other priors start by other draws."""

    def on_fit_start(self, state):
        torch.manual_seed(0)

    def on_step(self, state):
        torch.manual_seed(state.step)


def gaussian_from(fit):
    """A fit under the slab's prior alone that stands where the slabs of a spike and slab stand."""
    gaussian = bp.fit(model(bp.Gaussian(SD)), (X, Y), "meanfield", steps=1, learning_rate=0.01, kl_weight=0.3, **EXACT)
    source, target = fit.restarts[0], gaussian.restarts[0]
    target.model.network.load_state_dict(source.model.network.state_dict())
    (own,), (given,) = target.guide.families, source.guide.families
    with torch.no_grad():
        own.location.copy_(given.location)
        own.log_scale.copy_(given.log_scale)
    return gaussian


@pytest.mark.parametrize("drawn", ["weights", "outputs"])
def test_with_all_gates_open_it_is_the_mean_field_fit_of_the_slabs(fit, drawn):
    how = {"steps": 30, "kl_warmup": 0.0, "learning_rate": 0.01, "kl_weight": 0.3, "execution": "plain", "seed": 0}
    how |= EXACT | {"local_reparameterisation": drawn == "outputs", "callbacks": [Seeded()]}
    gaussian = gaussian_from(fit)
    expected = bp.fit(gaussian.model, (X, Y), "meanfield", start=gaussian, standardise=None, **how)
    found = bp.refit(fit, (X, Y), everything(fit), restart=0, **how)
    parts = [(one.guide.families[0].location, one.guide.families[0].log_scale) for one in (expected, found)]
    for one, other in zip(*parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    gates = sum(mask.numel() for mask in everything(fit).values())
    cost = -gates * np.log(DENSITY)  # of gates that are all ones
    assert found.summary()["kl"] == pytest.approx(expected.summary()["kl"] + cost, rel=1e-11)
    # control: one gate closed is another network
    masks = everything(fit)
    masks["0.weight"][0, 0] = False
    other = bp.refit(fit, (X, Y), masks, restart=0, **how).guide.families[0].location
    assert float((other - parts[0][0]).detach().abs().max()) > 1e-6


# -- against conjugate regression ------------------------------------------------------------------------------

NOISE, SLAB = 0.5, 1.3


def design(correlated):
    generator = np.random.default_rng(0)
    x, _ = np.linalg.qr(generator.normal(size=(40, 4)))
    x *= np.sqrt([30.0, 20.0, 10.0, 5.0])
    if correlated:
        x = x @ (np.eye(4) + 0.6 * np.eye(4, k=1))
    y = x @ np.array([1.0, -0.7, 0.4, 0.0]) + NOISE * generator.normal(size=40)
    return x, y


def evidence(x, y):
    """Log p(y) of the regression on these inputs alone, by the covariance of y."""
    covariance = NOISE**2 * np.eye(len(y)) + SLAB**2 * x @ x.T
    return stats.multivariate_normal(cov=covariance).logpdf(y)


@pytest.mark.parametrize("correlated", [False, True])
def test_it_is_the_conjugate_posterior_given_the_structure(correlated):
    x, y = design(correlated)
    data = (torch.as_tensor(x), torch.as_tensor(y))
    kept = np.array([True, True, False, True])
    net = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Flatten(0)).double()
    prior = bp.SpikeAndSlab(expected_density=DENSITY, slab_sd=SLAB)
    bnn = bp.BayesianNetwork(net, {"*": prior}, likelihood=bp.Normal(NOISE), data_size=40)
    how = {"precision": "float64", "device": "cpu", "batch_size": 40, "standardise": False}
    fit = bp.fit(bnn, data, steps=50, learning_rate=0.02, kl_weight=1.0, **how)
    masks = {"0.weight": torch.as_tensor(kept)[None]}
    found = bp.refit(fit, data, masks, steps=2500, learning_rate=0.02, particles=4)
    family = found.guide.families[0]
    m, s = family.location.detach().numpy()[kept], family.log_scale.detach().exp().numpy()[kept]
    inside = x[:, kept]
    precision = inside.T @ inside / NOISE**2 + np.eye(3) / SLAB**2
    mean, sd = np.linalg.solve(precision, inside.T @ y / NOISE**2), np.diag(precision) ** -0.5
    assert np.abs((m - mean) / sd).max() < 0.12
    assert np.abs(s / sd - 1.0).max() < 0.06
    # The ELBO by hand at what was found: the expected log-likelihood of a linear model needs two moments.
    residual = ((y - inside @ m) ** 2).sum() + (s**2 * (inside**2).sum(axis=0)).sum()
    likelihood = -0.5 * residual / NOISE**2 - 40 * (np.log(NOISE) + 0.5 * np.log(2 * np.pi))
    kl = (np.log(SLAB / s) + (m**2 + s**2) / (2 * SLAB**2) - 0.5).sum()
    gates = -(3 * np.log(DENSITY) + np.log(1 - DENSITY))
    loss = bp.objective(found.model, found.guide)
    assert float(torch.stack(list(loss.kl_terms().values())).sum()) == pytest.approx(kl + gates, rel=1e-12)
    exact = evidence(inside, y) - gates
    gap = exact - (likelihood - kl - gates)
    # What is left of it is KL(q || posterior): of independent coefficients nothing, else that of the mean field.
    missed = 0.0 if not correlated else 0.5 * (np.linalg.slogdet(precision)[1] - np.log(np.diag(precision)).sum())
    assert gap == pytest.approx(-missed, abs=0.04)
    # control: the posterior of the regression on all four inputs is another one
    whole = x.T @ x / NOISE**2 + np.eye(4) / SLAB**2
    other = np.linalg.solve(whole, x.T @ y / NOISE**2)[kept]
    if correlated:
        assert np.abs(other - mean).max() > 0.5 * sd.min()
    assert abs(evidence(x, y) + (4 * np.log(DENSITY)) - exact) > 0.3


# -- what it promises ------------------------------------------------------------------------------------------


def test_gates_are_exactly_zero_or_one_and_closed_weights_exactly_zero_in_every_draw(fit, refitted):
    for number, one in enumerate(refitted.restarts):
        median = {name: p > 0.5 for name, p in bp_probabilities(fit, number).items()}
        for name, p in bp_probabilities(refitted, number).items():
            assert torch.equal(p, median[name].to(p.dtype))
        draws = refitted.draws(20, number)
        for name in NAMES:
            z = draws[f"{name}.z"]
            assert torch.equal(z, median[name].to(z.dtype).expand_as(z))
            assert bool((draws[name][:, ~median[name]] == 0).all())
            assert bool((draws[name][:, median[name]] != 0).all())
        assert [name for name, _ in one.guide.named_parameters()] == ["families.0.location", "families.0.log_scale"]
        pruned = bp.prune(refitted, min_inclusion=0.5, restart=number)
        assert all(torch.equal(pruned.masks[name], median[name]) for name in NAMES)
    told = refitted.settings["refit"]
    assert [one["kept"] for one in told] == [sum(int(m.sum()) for m in medians(fit, n).values()) for n in range(2)]
    assert [one["from"] for one in told] == [0, 1] and told[0]["of"] == 64
    assert "given the structure" in " ".join(refitted.summary()["notes"])
    assert "were given" in refitted.inclusion_probabilities().attrs["notes"]


def bp_probabilities(fit, restart):
    found = fit.inclusion_probabilities(restart)
    return {name: torch.as_tensor(found[name].values) for name in NAMES}


def medians(fit, restart):
    return {name: p > 0.5 for name, p in bp_probabilities(fit, restart).items()}


def test_restarts_have_structures_of_their_own(fit):
    assert any(not torch.equal(medians(fit, 0)[name], medians(fit, 1)[name]) for name in NAMES)


def test_what_is_closed_stays_where_it_was_and_costs_nothing(fit):
    masks = half(fit)
    found = bp.refit(fit, (X, Y), masks, restart=0, steps=30, execution="plain")
    closed = ~torch.cat([masks[name].reshape(-1) for name in NAMES])
    before, after = fit.guide.families[0], found.guide.families[0]
    for name in ("location", "log_scale"):
        one, other = getattr(before, name).detach(), getattr(after, name).detach()
        assert torch.equal(one[closed], other[closed])
        assert not torch.equal(one[~closed], other[~closed])  # control
    kl = bp.objective(found.model, found.guide).kl_terms()
    inside = ~closed
    m, s = after.location.detach()[inside], after.log_scale.detach()[inside].exp()
    by_hand = (torch.log(SD / s) + (m**2 + s**2) / (2 * SD**2) - 0.5).sum()
    torch.testing.assert_close(sum(kl[f"{name}.slab"] for name in NAMES), by_hand, rtol=1e-11, atol=0.0)


def test_both_executions_come_to_the_same(fit):
    found = [bp.refit(fit, (X, Y), half(fit), restart=0, steps=20, execution=name) for name in ("plain", "fused")]
    assert [one.settings["execution"]["name"] for one in found] == ["plain", "fused"]
    for one, other in zip(*(fit.guide.state_dict().values() for fit in found), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_mean_field_guide_has_given_gates_too_and_closed_slabs_at_their_prior():
    fit = bp.fit(model(spike()), (X, Y), "meanfield", steps=20, learning_rate=0.01, **EXACT)
    masks = half(fit)
    found = bp.refit(fit, (X, Y), masks, steps=20, execution="plain")
    assert found.settings["refit"][0]["by_gates"] == list(NAMES)
    means = found.guide.means()
    for name in NAMES:
        assert torch.equal(means[f"{name}.z"], masks[name].double())
        assert float(means[f"{name}.slab"][~masks[name]].abs().max()) < 1e-9
        assert float(means[f"{name}.slab"][masks[name]].abs().min()) > 1e-9  # control


@pytest.mark.parametrize("level", ["output", "input"])
def test_gates_of_groups_are_given_where_masks_respect_them(level):
    fit = bp.fit(model(spike(level=level)), (X, Y), steps=10, learning_rate=0.01, **EXACT)
    masks = everything(fit)
    at = (slice(2), slice(None)) if level == "output" else (slice(None), slice(2))
    for name in NAMES[:1]:
        masks[name][at] = False
    found = bp.refit(fit, (X, Y), masks, steps=5)
    assert found.settings["refit"][0]["by_gates"] == list(NAMES) and not found.model.ways
    masks["0.weight"][5, 5] = False  # parts a group, whose gate stays open
    found = bp.refit(fit, (X, Y), masks, steps=5)
    assert found.settings["refit"][0]["by_masks"] == ["0.weight"]
    weights = found.draws(3)["0.weight"]
    assert torch.equal(weights != 0, masks["0.weight"].expand_as(weights))
    assert torch.equal(torch.as_tensor(found.inclusion_probabilities()["0.weight"].values) > 0, masks["0.weight"])


def test_masks_of_other_methods_are_trained_on_under_their_own_prior():
    halo = bp.fit(model(bp.HALO()), (X, Y), steps=20, **EXACT)
    soft = bp.fit(model(bp.SoftThreshold()), (X, Y), steps=20, **EXACT)
    horseshoe = bp.fit(model(bp.Horseshoe()), (X, Y), steps=20, **EXACT)
    for fit in (halo, soft, horseshoe):
        pruned = bp.prune(fit, 0.5, per="layer", criterion="magnitude")
        found = bp.refit(fit, (X, Y), pruned, steps=20)
        assert found.settings["refit"][0]["kept"] == 32 and found.settings["refit"][0]["by_masks"] == list(NAMES)
        weights = found.draws(2)
        assert all(bool((weights[name][:, ~pruned.masks[name]] == 0).all()) for name in NAMES)
        assert not torch.equal(found.guide.means()[site_of(found)], fit.guide.means()[site_of(fit)])  # it was trained
        result = bp.prune(found)
        assert all(bool((result.masks[name] <= pruned.masks[name]).all()) for name in NAMES)
    assert "as in a MAP" in " ".join(bp.refit(halo, (X, Y), pruned, steps=5).summary()["notes"])


def site_of(fit):
    return next(iter(fit.model.sites))


def test_fits_that_have_masks_keep_within_them():
    rule = bp.DynamicMasks(density=0.5, share=0.0)
    fit = bp.fit(model(bp.Gaussian(SD)), (X, Y), "meanfield", rules=[rule], steps=20, **EXACT)
    own = {name: mask for name, mask in bp.prune(fit).masks.items()}
    found = bp.refit(fit, (X, Y), everything(fit), steps=10)
    assert all(torch.equal(bp.prune(found).masks[name], own[name]) for name in NAMES)
    assert found.settings["refit"][0]["kept"] == 32


def test_knobs_stay_where_a_budget_left_them(fit):
    budgeted = bp.fit(
        model(spike()), (X, Y), rules=[bp.Budget(density=0.25)], steps=60, learning_rate=0.01, kl_weight=0.3, **EXACT
    )
    moved = budgeted.model.knobs.moved()
    assert moved and moved != fit.model.knobs.moved()
    found = bp.refit(budgeted, (X, Y), steps=10)
    assert found.model.knobs.moved() == moved
    assert found.settings["refit"][0]["kept"] == 16


# -- kept, copied, resumed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", ["saved", "copied", "pickled"])
def test_it_is_kept_as_what_it_is(refitted, tmp_path, copied):
    if copied == "saved":
        refitted.save(tmp_path / "fit")
        found = bp.Fit.load(tmp_path / "fit", model(spike()))
    else:
        found = copy.deepcopy(refitted) if copied == "copied" else pickle.loads(pickle.dumps(refitted))
    for number in range(2):
        for name in NAMES:
            assert torch.equal(bp_probabilities(found, number)[name], bp_probabilities(refitted, number)[name])
        assert all(family.has_given_gates for family in found.restarts[number].guide.families)
        assert found.score(X, Y, restart=number) == refitted.score(X, Y, restart=number)
    terms = [bp.objective(one.model, one.guide).kl_terms() for one in (found, refitted)]
    assert {name: float(term) for name, term in terms[0].items()} == {name: float(t) for name, t in terms[1].items()}
    assert json.loads(json.dumps(found.settings["refit"])) == refitted.settings["refit"]


def test_a_state_of_learned_gates_makes_learned_gates_of_given_ones_and_the_other_way(fit, refitted):
    given, learned = copy.deepcopy(refitted.guide), copy.deepcopy(fit.guide)
    assert list(given.state_dict()) == list(learned.state_dict())
    given.load_state_dict(fit.guide.state_dict())
    learned.load_state_dict(refitted.guide.state_dict())
    assert not given.families[0].has_given_gates and learned.families[0].has_given_gates
    assert "families.0.logit" in dict(given.named_parameters())
    assert torch.equal(given.families[0].logit, fit.guide.families[0].logit)


def test_it_is_refitted_again_with_what_is_left(refitted):
    masks = half(refitted)
    found = bp.refit(refitted, (X, Y), masks, restart=1, steps=5)
    assert found.settings["refit"][0]["from"] == 1 and len(found.restarts) == 1
    assert all(torch.equal(bp_probabilities(found, 0)[name] > 0.5, masks[name]) for name in NAMES)


class Interrupt(Callback):
    is_resumable = True

    def __init__(self, step):
        self.step = step

    def on_step(self, state):
        if state.restart == 1 and state.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["gates", "masks"])
def test_it_goes_on_bit_by_bit_after_it_was_killed(fit, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)
    if kind == "masks":
        fit = bp.fit(model(bp.HALO()), (X, Y), steps=8, restarts=2, **EXACT)
    how = {"steps": 24, "execution": "plain"}
    expected = bp.refit(fit, (X, Y), half(fit), **how)
    with pytest.raises(KeyboardInterrupt):
        bp.refit(fit, (X, Y), half(fit), checkpoint=tmp_path / "s", callbacks=[Interrupt(14)], **how)
    found = bp.refit(fit, (X, Y), half(fit), checkpoint=tmp_path / "s", callbacks=[Interrupt(-1)], **how)
    assert found.settings["resumed_at_epoch"] is not None
    for one, other in zip(expected.restarts, found.restarts, strict=True):
        for part in ("guide", "model"):
            states = [getattr(each, part).state_dict() for each in (one, other)]
            assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.raises(ValueError, match="rule refit"):
        bp.refit(fit, (X, Y), everything(fit), checkpoint=tmp_path / "s", **how)


# -- defaults and bad input ------------------------------------------------------------------------------------


def test_it_is_trained_as_the_fit_was_and_half_as_long_but_a_thousand_steps_at_least(fit, monkeypatch):
    seen = {}

    def instead(model, data, guide, **how):
        seen.update(how)
        raise KeyboardInterrupt

    monkeypatch.setattr("bayesprune.inference.refitting.refit.fit_model", instead)
    for steps, expected in ((60, 1000), (3000, 1500)):
        fit = copy.deepcopy(fit)
        fit.settings["steps"] = steps
        with pytest.raises(KeyboardInterrupt):
            bp.refit(fit, (X, Y))
        how = seen["options"]
        assert (how.steps, how.kl_warmup, how.kl_weight, how.batch_size) == (expected, 0.0, 0.3, 16)
        assert (how.learning_rate, how.optimizer, how.precision) == (0.01, "adam", "float64")
    with pytest.raises(KeyboardInterrupt):
        bp.refit(fit, (X, Y), epochs=3, kl_weight=1.0)
    assert (seen["options"].steps, seen["options"].epochs, seen["options"].kl_weight) == (None, 3, 1.0)


def wrong_rows(fit):
    whole = everything(fit)
    empty = {**whole, "2.weight": torch.zeros(2, 8, dtype=torch.bool)}
    return {
        "threshold": (2, r"takes 'median', a probability in \(0, 1\)"),
        "zero": (0.0, "takes 'median'"),
        "truth": (True, "takes 'median'"),
        "word": ("mean", "takes 'median'"),
        "nothing": (None, "takes 'median'"),
        "high threshold": (1 - 1e-12, "no weight of 0.weight is in"),
        "empty layer": (empty, "no weight of 2.weight is in"),
        "no masks": ({}, "has no mask of 0.weight"),
        "one mask": ({"0.weight": whole["0.weight"]}, "has no mask of 2.weight"),
        "unknown": ({**whole, "9.weight": whole["0.weight"]}, "has no prior"),
        "shape": ({**whole, "0.weight": torch.ones(2, dtype=torch.bool)}, r"has shape \(2,\), but the tensor has"),
        "numbers": ({**whole, "0.weight": torch.ones(8, 6)}, "is a boolean tensor"),
    }


ROWS = (
    "threshold", "zero", "truth", "word", "nothing", "high threshold", "empty layer", "no masks", "one mask", "unknown",
    "shape", "numbers",
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_bad_gates_are_told_in_a_sentence(fit, row):
    gates, sentence = wrong_rows(fit)[row]
    with pytest.raises(ValueError, match=sentence) as told:
        bp.refit(fit, (X, Y), gates, steps=1)
    assert "\n" not in str(told.value)


@pytest.mark.filterwarnings("ignore:all units of:UserWarning")
def test_other_bad_input_is_told_in_a_sentence(fit):
    halo = bp.fit(model(bp.HALO()), (X, Y), steps=2, **EXACT)
    with pytest.raises(ValueError, match="which a MAP has none of"):
        bp.refit(halo, (X, Y))
    with pytest.raises(ValueError, match="restarts= and standardise= are those of the fit"):
        bp.refit(fit, (X, Y), restarts=2)
    with pytest.raises(ValueError, match="restart"):
        bp.refit(fit, (X, Y), restart=7)
    with pytest.raises(ValueError, match=r"fit|Fit"):
        bp.refit(fit.model, (X, Y))
    with pytest.raises(ValueError, match="data|Dataset"):
        bp.refit(fit, None)
    with pytest.raises(TypeError, match="did you mean epochs"):
        bp.refit(fit, (X, Y), epoch=3)
    units = bp.BayesianNetwork(
        network(),
        {},
        gates=bp.UnitGates(kappa=1e-6, weight_scale=0.3),
        example_input=X[:1],
        likelihood=bp.Categorical(),
        data_size=len(X),
    )
    gated = bp.fit(units, (X, Y), steps=2, **EXACT)
    with pytest.raises(ValueError, match="learned which units are"):
        bp.refit(gated, (X, Y))
