"""A mean-field posterior on an always-sparse support: what is out costs nothing, and what comes starts as said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.masks import out_of_support, support
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.masks.out_of_support import fixed_sd
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.watching.callbacks import Callback
from bayesprune.models.masks.mask_way import Masks
from tests.oracles.tempered_inclusion import sparse_elbo

RANDOM = torch.Generator().manual_seed(6)
X = torch.randn(64, 5, generator=RANDOM, dtype=torch.float64)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()
SD = 0.4


class Course(Callback):
    """Masks, locations and log scales after every step, by tensor."""

    def __init__(self):
        self.steps = []

    def on_step(self, state):
        found = {}
        for name, mask in next(w for w in state.objective.model.ways if isinstance(w, Masks)).masks.items():
            parts = {piece.parameter: piece.of(p.detach()).clone() for p, piece in state.slices(name)}
            states = {
                (piece.parameter, key): piece.of(value).clone()
                for p, piece in state.slices(name)
                for key, value in state.optimizer.state[p].items()
                if value.shape == p.shape
            }
            found[name] = (mask.clone(), parts["location"], parts["log_scale"], states)
        self.steps.append(found)


def fitted(prior=None, execution="plain", precision="float64", rate=0.02, **more):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 2))
    bnn = bp.BayesianNetwork(network, {"*.weight": prior or bp.Gaussian(SD)}, data_size=len(X))
    rule = DynamicMasks(**{"density": 0.3, "drop": "signal-to-noise", "every": 5, "share": 0.4, **more})
    seen = Course()
    how = {"steps": 60, "batch_size": 16, "device": "cpu", "learning_rate": rate, "kl_weight": 1.0}
    how |= {"precision": precision, "execution": execution}
    return bp.fit(bnn, (X, Y), "meanfield", rules=[rule], callbacks=[seen], **how), seen


def layers_of(fit, more=()):
    """The living weights of a fit one by one, as the oracle takes them; `more` are added as (tensor, row, column)."""
    factors, found = fit.guide.draw(), []
    for name, mask in fit.model.ways[0].masks.items():
        fn = factors[name].distribution()
        places = [tuple(place) for place in mask.nonzero().tolist()] + [at[1:] for at in more if at[0] == name]
        active = [(r, c, fn.mean[r, c].item(), fn.stddev[r, c].item()) for r, c in places]
        bias = fit.model.network.get_parameter(name.replace("weight", "bias")).detach()
        found.append((tuple(mask.shape), bias, SD, active))
    return found


def elbo_and_oracle(fit, draws=3, more=()):
    """Minus the objective at draws, and the sparse ELBO at the same noise."""
    objective = Objective(fit.model, fit.guide).eval()
    values, noises = [], []
    for draw in range(draws):
        torch.manual_seed(draw)
        with torch.no_grad():
            values.append(-float(objective(X, Y)))
        torch.manual_seed(draw)
        factors = fit.guide.draw()
        noise = []
        for name, mask in fit.model.ways[0].masks.items():
            fn = factors[name].distribution()
            eps = ((factors[name].value - fn.mean) / fn.stddev).detach()
            noise.append(eps[mask].tolist() + [eps[at[1:]].item() for at in more if at[0] == name])
        noises.append(noise)
    oracle, kl = sparse_elbo(layers_of(fit, more), X, Y, len(X), noises)
    return sum(values) / draws, oracle, kl, float(sum(objective.kl_terms().values()))


@pytest.mark.parametrize("execution", ["plain", "fused"])
def test_the_elbo_is_that_of_the_sparse_network_alone(execution):
    fit, _ = fitted(execution=execution)
    assert fit.settings["masks"][0]["exchanged"] > 5
    ours, oracle, kl, our_kl = elbo_and_oracle(fit)
    assert ours == pytest.approx(oracle, rel=1e-10) and our_kl == pytest.approx(kl, rel=1e-10)
    alive = int(sum(fit.model.ways[0].masks[name].sum() for name in fit.model.matrices))
    assert alive == round(0.3 * 70)


def test_a_weight_more_is_seen():
    """Control: the oracle with one weight that is out, at a factor other than its prior."""
    fit, _ = fitted()
    ours, *_ = elbo_and_oracle(fit)
    row, column = (~fit.model.ways[0].masks["0.weight"]).nonzero()[0].tolist()
    layers = layers_of(fit)
    layers[0][3].append((row, column, 0.0, 0.9 * SD))
    noises = [[[0.0] * len(active) for *_, active in layers]]
    _, kl = sparse_elbo(layers, X, Y, len(X), noises)
    assert abs(kl - float(sum(Objective(fit.model, fit.guide).kl_terms().values()))) > 1e-3


def test_without_the_prior_where_weights_are_out_they_would_cost(monkeypatch):
    """Control: the masks alone leave factors that are pulled to the prior and never quite arrive."""
    monkeypatch.setattr(support, "settle_scales", lambda *given: None)
    fit, _ = fitted(rate=0.002)
    _, _, kl, ours = elbo_and_oracle(fit)
    assert ours > 1.3 * kl


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_what_is_out_is_at_the_prior_after_every_update_and_in_the_end(precision):
    fit, seen = fitted(precision=precision)
    last = {n: (found[0], fit.guide.draw()[n].distribution().stddev.detach()) for n, found in seen.steps[-1].items()}
    updates = [{n: (m, scale.exp()) for n, (m, _, scale, _) in seen.steps[s - 1].items()} for s in (5, 20, 40)]
    for found in (*updates, last):
        for mask, sd in found.values():
            assert float((sd[~mask] / SD - 1.0).abs().max()) < 1e-6
            assert float((sd[mask] / SD - 1.0).abs().max()) > 0.1  # control: what is in learns
    assert all(bool((where[~mask] == 0.0).all()) for one in seen.steps for mask, where, _, _ in one.values())


def test_nothing_that_is_in_depends_on_what_is_out(monkeypatch):
    """Adam moves what is out by the rounding of its gradient of zero; no living weight knows of it, to the last bit."""
    _, exact = fitted(precision="float32")
    monkeypatch.setattr(out_of_support, "fixed_sd", lambda prior, like: like.exp())  # what is out keeps its scale
    _, loose = fitted(precision="float32")
    strays = 0.0
    for one, two in zip(exact.steps, loose.steps, strict=True):
        for name, (mask, location, log_scale, _) in one.items():
            assert torch.equal(mask, two[name][0]) and torch.equal(location, two[name][1])
            assert torch.equal(log_scale[mask], two[name][2][mask])
            strays = max(strays, float((log_scale - two[name][2]).abs().max()))
    assert strays > 0.1  # control: they do differ


def test_a_weight_that_comes_starts_at_zero_with_the_mean_scale_of_those_that_stay_and_no_history():
    _, seen = fitted()
    came, off = 0, []
    for before, after in zip(seen.steps, seen.steps[1:], strict=False):
        for name, (mask, location, log_scale, states) in after.items():
            new, stay = mask & ~before[name][0], mask & before[name][0]
            if new.any():
                came += int(new.sum())
                assert bool((location[new] == 0.0).all())
                mean = log_scale[stay].exp().mean()
                torch.testing.assert_close(log_scale[new].exp(), mean.expand(int(new.sum())), rtol=1e-9, atol=0.0)
                off.append(abs(float(mean) / SD - 1.0))
                assert states and all(bool((value[new] == 0.0).all()) for value in states.values())
                assert any(bool((value[stay] != 0.0).any()) for value in states.values())
    assert came > 5 and max(off) > 0.05  # control: it is not the prior's


def test_a_tensor_all_of_whose_weights_go_at_once_takes_their_scale():
    _, seen = fitted(density=0.05, share=0.9)
    assert all(bool(log_scale.isfinite().all()) for found in seen.steps for _, _, log_scale, _ in found.values())


@pytest.mark.parametrize(
    ("prior", "sd"),
    [(bp.Gaussian(0.3), 0.3), (bp.Laplace(), None), (bp.ContinuousSpikeAndSlab(), None), (bp.Horseshoe(), None)],
)
def test_the_width_is_known_of_a_fixed_normal_only(prior, sd):
    bnn = bp.BayesianNetwork(nn.Linear(5, 2), {"weight": prior}, data_size=64)
    found = fixed_sd(bnn.priors["weight"], torch.zeros(2, 5))
    assert found is None if sd is None else float(found) == pytest.approx(sd)


@pytest.mark.parametrize(
    ("prior", "guide", "asked"),
    [
        (bp.Gaussian(), "meanfield", {"optimizer": "adam", "learning_rate": 0.01, "schedule": "hold-cosine"}),
        (bp.Gaussian(), "map", {"optimizer": "sgd", "learning_rate": 0.1, "schedule": "cosine"}),
        (bp.SpikeAndSlab(), "paired", {}),
    ],
)
def test_how_it_is_trained_by_default(prior, guide, asked):
    bnn = bp.BayesianNetwork(nn.Linear(5, 2), {"weight": prior}, data_size=64)
    assert dict(DynamicMasks(density=0.3).training(bnn, guide)) == asked


def test_points_are_left_as_they_are(monkeypatch):
    """A MAP is the same to the last bit with and without."""

    def means():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 2))
        bnn = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian(SD)}, data_size=len(X))
        how = {"steps": 60, "batch_size": 16, "device": "cpu", "execution": "plain"}
        return bp.fit(bnn, (X, Y), "map", rules=[DynamicMasks(density=0.3, every=5)], **how).guide.means()

    first = means()
    monkeypatch.setattr(support, "settle_scales", lambda *given: None)
    assert all(torch.equal(value, first[name]) for name, value in means().items())
