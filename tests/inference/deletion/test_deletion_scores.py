"""`deletion_scores`: of the network that is asked for, averaged over draws, and a criterion of `prune`."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.inference.pruning.criteria import CRITERIA
from tests.oracles import deletion_reference as oracle


@pytest.fixture(scope="module")
def case():
    """A small network of two gated layers, in float64, and its data."""
    torch.manual_seed(0)
    x = torch.randn(150, 6, dtype=torch.float64)
    y = (x[:, 0] + 0.6 * x[:, 1].tanh() + 0.4 * torch.randn(150).double() > 0).long()
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    priors = {
        "0.weight": bp.SpikeAndSlab(0.4, slab_sd=1.0),
        "2.weight": bp.SpikeAndSlab(0.5, slab_sd=1.0, level="block", block=(2, 2)),
    }
    model = bp.BayesianNetwork(network, priors, data_size=150)
    fit = bp.fit(model, (x, y), epochs=40, batch_size=50, learning_rate=0.02, precision="float64", device="cpu")
    return fit, x, y


def at(fit, weights):
    """The fit's network with these weights."""
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    network.load_state_dict({**fit.model.network.state_dict(), **{n: w.double() for n, w in weights.items()}})
    return network


def predicted(network, sets, x, y):
    log_prob = bp.Categorical().log_prob
    return oracle.curvature_of_labels(network, sets, x) / 2 - oracle.slope(network, log_prob, sets, x, y)


BASES = {
    "mean": lambda fit: fit.model.weights_at(fit.guide.means()),
    "included": lambda fit: fit.included_weights(),
    "median": lambda fit: {
        name: weight * (torch.as_tensor(fit.inclusion_probabilities()[name].values) > 0.5)
        for name, weight in fit.included_weights().items()
    },
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("per", ["output", "input", "gate"])
def test_scores_are_those_of_the_network_that_is_asked_for(base, per, case):
    fit, x, y = case
    x, y = x[:40], y[:40]
    found = bp.deletion_scores(fit, (x, y), per, base=base)
    networks = {name: at(fit, weights(fit)) for name, weights in BASES.items()}
    apart = 0
    for name, change in found.change.items():
        for place in range(len(change))[:4]:
            sets = {name: found.groups[name] == place}
            assert float(change[place]) == pytest.approx(predicted(networks[base], sets, x, y), rel=1e-6, abs=1e-10)
            others = [predicted(one, sets, x, y) for key, one in networks.items() if key != base]
            apart += all(abs(other - float(change[place])) > 1e-5 for other in others)
    assert apart > 0  # the controls: of the other networks
    assert found.examples == 40 and (found.per, found.base, found.draws) == (per, base, None)


def test_over_draws_it_is_the_mean_of_the_scores_at_each(case):
    fit, x, y = case
    state = torch.get_rng_state()
    found = bp.deletion_scores(fit, (x, y), "input", draws=3, tensors="0.weight", seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = fit.draws(3, sites=fit.model.priors.__contains__, seed=7)
    networks = [at(fit, {name: weights[k] for name, weights in drawn.items()}) for k in range(3)]
    for place in range(6):
        sets = {"0.weight": found.groups["0.weight"] == place}
        each = [predicted(network, sets, x, y) for network in networks]
        assert float(found.change["0.weight"][place]) == pytest.approx(sum(each) / 3, rel=1e-6, abs=1e-10)
    assert list(found.change) == ["0.weight"]
    other = bp.deletion_scores(fit, (x, y), "input", draws=3, tensors="0.weight", seed=8)
    assert not torch.equal(other.change["0.weight"], found.change["0.weight"])
    assert "averaged over 3 draws" in str(found)


def test_the_criterion_is_the_score_by_weight_of_what_the_fit_leaves(case):
    fit, x, y = case
    found = bp.deletion_scores(fit, (x, y), base="median").by_weight
    left = {name: torch.as_tensor(p.values) > 0.5 for name, p in fit.inclusion_probabilities().items()}
    scores = CRITERIA["deletion"](fit, 0, data=(x, y))
    for name, score in scores.items():
        torch.testing.assert_close(score[left[name]], found[name][left[name]], rtol=1e-6, atol=1e-12)
        assert float(score[~left[name]].max() if (~left[name]).any() else -torch.inf) < float(score[left[name]].min())
    zeros = 1.0 - sum(int(one.sum()) for one in left.values()) / 40
    sparsity = round(zeros * 40 + 4) / 40
    once = bp.prune(fit, sparsity=sparsity, criterion="deletion", data=(x, y))
    again = bp.prune(bp.prune(fit, min_inclusion=0.5), sparsity=sparsity, criterion="deletion", data=(x, y))
    assert once.report.criterion == "deletion"
    for name, mask in once.masks.items():
        assert torch.equal(mask, again.masks[name])
    kept, gone = (
        torch.cat([found[name][left[name] & (mask == stays)] for name, mask in once.masks.items()])
        for stays in (True, False)
    )
    assert len(gone) == 4 and float(gone.max()) <= float(kept.min())


def test_prune_takes_the_scores_of_groups_and_keeps_whole_ones(case):
    fit, x, y = case
    scores = bp.deletion_scores(fit, (x, y), "input", base="included", tensors="0.weight")
    open_fit = bp.fit(
        bp.BayesianNetwork(
            nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double(),
            {"0.weight": bp.Gaussian()},
            data_size=150,
        ),
        (x, y),
        "map",
        steps=3,
        device="cpu",
        precision="float64",
    )
    pruned = bp.prune(open_fit, sparsity=0.5, criterion=scores)
    assert pruned.report.criterion == "deletion per input"
    columns = pruned.masks["0.weight"]
    assert torch.equal(columns, columns[:1].expand(5, 6)) and int(columns[0].sum()) == 3
    assert set(columns[0].nonzero().flatten().tolist()) == set(scores.change["0.weight"].topk(3).indices.tolist())


def test_loaders_the_examples_kept_and_cheaper_curvatures(case):
    fit, x, y = case
    own, told = bp.deletion_scores(fit), bp.deletion_scores(fit, (x, y))
    loader = bp.deletion_scores(fit, DataLoader(TensorDataset(x, y), batch_size=40))
    for name, change in told.change.items():
        torch.testing.assert_close(own.change[name], change, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(loader.change[name], change, rtol=1e-9, atol=1e-13)
    for curvature in ("sampled", "empirical"):
        other = bp.deletion_scores(fit, curvature=curvature)
        assert curvature in str(other)
        for name in told.change:
            torch.testing.assert_close(other.slope[name], told.slope[name], rtol=1e-9, atol=1e-13)
            assert not torch.allclose(other.curvature[name], told.curvature[name], rtol=1e-3)


def test_scores_of_sets_are_of_the_network_asked_for_and_of_draws(case):
    fit, x, y = case
    masks = [{"0.weight": torch.rand(5, 6) < 0.5, "2.weight": torch.rand(2, 5) < 0.5} for _ in range(3)]
    found = bp.set_scores(fit, [{name: mask.numpy() for name, mask in one.items()} for one in masks], (x, y))
    network = at(fit, BASES["mean"](fit))
    drawn = fit.draws(2, sites=fit.model.priors.__contains__, seed=0)
    networks = [at(fit, {name: weights[k] for name, weights in drawn.items()}) for k in range(2)]
    over = bp.set_scores(fit, masks, (x, y), draws=2)
    for place, one in enumerate(masks):
        assert float(found.change[place]) == pytest.approx(predicted(network, one, x, y), rel=1e-6, abs=1e-10)
        each = sum(predicted(net, one, x, y) for net in networks) / 2
        assert float(over.change[place]) == pytest.approx(each, rel=1e-6, abs=1e-10)
        assert each != pytest.approx(float(found.change[place]), rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"per": "unit"}, "per= takes one of weight, output, input, kernel, gate, not 'unit'"),
        ({"base": "mode"}, "base= takes one of mean, included, median, not 'mode'"),
        ({"curvature": "hessian"}, "curvature= takes one of gauss-newton, sampled, empirical, not 'hessian'"),
        ({"draws": 0}, "draws must be at least 1, not 0: leave it out for the centre"),
        ({"tensors": "9.weight"}, "there is no tensor '9.weight' with a prior"),
        ({"restart": 4}, "there is no restart 4"),
        ({"data": 3}, "data must be a tuple"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused_in_one_sentence(wrong, sentence, case):
    with pytest.raises(ValueError, match=sentence) as refusal:
        bp.deletion_scores(case[0], **wrong)
    assert "\n" not in str(refusal.value)


def test_without_examples_it_asks_for_some(case, tmp_path):
    fit, _, _ = case
    fit.save(tmp_path / "fit")
    loaded = bp.Fit.load(tmp_path / "fit", model=bp.BayesianNetwork(
        nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double(), {
            "0.weight": bp.SpikeAndSlab(0.4, slab_sd=1.0),
            "2.weight": bp.SpikeAndSlab(0.5, slab_sd=1.0, level="block", block=(2, 2)),
        }, data_size=150))  # fmt: skip
    with pytest.raises(ValueError, match=r"neither the fit keeps nor data= gives: pass data=\(x, y\)"):
        bp.deletion_scores(loaded)
    with pytest.raises(ValueError, match="there is no set to score"):
        bp.set_scores(fit, [])
