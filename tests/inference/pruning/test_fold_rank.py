"""From a fit under LowRank to thin layers: ranks, outputs, export, fine-tuning; and budgets that count these layers."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.rules.budget_count import component_sizes, counting_rules, counts_left
from bayesprune.inference.rules.budget_landing import landed
from bayesprune.models.ready_networks import NETWORKS
from bayesprune.models.units.rank_folding import numerical_rank

PIXELS, LABELS = load_digits(return_X_y=True)
X, Y = torch.tensor(PIXELS / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(LABELS)
MATRICES = ("cell.input.weight", "cell.recurrent.weight")


def model_of(prior, name="gru", width=0.5):
    torch.manual_seed(0)
    return bp.BayesianNetwork(NETWORKS[name]((1, 8, 8), 10, width), {"cell.*.weight": prior}, data_size=1400)


@pytest.fixture(scope="module")
def fit():
    model = model_of(bp.LowRank(0.5))
    return bp.fit(model, (X[:1400], Y[:1400]), epochs=12, learning_rate=0.5, seed=0, execution="plain")


def outputs(network, x):
    with torch.no_grad():
        return network(x)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("how", [{"min_inclusion": 0.5}, {"sparsity": 0.0}])
def test_a_fit_ends_as_thin_layers_that_give_the_same(fit, how, double):
    pruned = bp.prune(fit, **how)
    small, ranks = pruned.compact(), bp.ranks(fit)
    learned = ranks["cell.recurrent.weight"]
    assert 0 < learned.rank < 24 and learned.folds
    assert numerical_rank(pruned.network.cell.recurrent.weight) == learned.rank
    assert small.report.folded["cell.recurrent"].rank == learned.rank
    assert ("cell.input" in small.report.folded) == ranks["cell.input.weight"].folds
    assert fit.score(X[1400:], Y[1400:])["accuracy"] > 0.6
    full, thin = (each.double() if double else each for each in (pruned.network, small.network))
    x = X[1400:].double() if double else X[1400:]
    one, other = outputs(full, x), outputs(thin, x)
    assert float((one - other).abs().max() / one.std(dim=0).mean()) < 1e-5
    counted = bp.costs(full, x[:1], thin)
    assert counted.dense_macs - counted.compact_macs == 8 * sum(
        layer.before - layer.after for layer in small.report.folded.values()
    )


def test_thin_layers_are_exported_and_fine_tuned(fit, tmp_path):
    small = bp.prune(fit, min_inclusion=0.5).compact()
    bp.export_network(small.network, X[:2], tmp_path / "net", plan=small.plan)
    space = {"__name__": "network", "__file__": str(tmp_path / "net" / "network.py")}
    exec((tmp_path / "net" / "network.py").read_text(), space)
    torch.testing.assert_close(space["load"]()(X[1400:]), outputs(small.network, X[1400:]), rtol=0, atol=1e-5)
    tuned = bp.finetune(small, (X[:1400], Y[:1400]), 1)
    assert tuned.network.cell.recurrent[0].weight.shape == small.network.cell.recurrent[0].weight.shape
    assert float((outputs(tuned.network, X[:5]) - outputs(small.network, X[:5])).abs().max()) > 0.0


def test_pruning_single_weights_leaves_no_low_rank_and_one_layer(fit):
    small = bp.prune(fit, sparsity=0.3).compact()
    assert small.report.folded == {} and small.report.not_folded == {}


# -- budgets ----------------------------------------------------------------------------------------------------------


def test_a_budget_counts_the_weights_of_thin_layers_where_there_are_fewer(fit):
    guide = fit.guide
    ranks, shapes = bp.ranks(fit), {name: fit.model.priors[name].shape for name in MATRICES}
    expected = {n: min(ranks[n].rank * sum(shapes[n]), shapes[n][0] * shapes[n][1]) for n in MATRICES}
    assert counts_left(guide) == expected
    small = bp.prune(fit, min_inclusion=0.5).compact().report
    for layer, folded in small.folded.items():
        assert expected[f"{layer}.weight"] == folded.after
    assert set(counting_rules(fit.model).values()) == {"weights of two thin layers of its rank"}


def test_a_landing_drops_the_smallest_components_and_leaves_the_others_as_they_are():
    model = model_of(bp.LowRank())
    guide = Guide(model)
    before = component_sizes(guide)
    said = landed(guide, lambda: float(sum(counts_left(guide).values())), 2500)
    after, dropped = component_sizes(guide), 0
    for site, sizes in before.items():
        kept = after[site] > 0
        assert 0 < int(kept.sum()) < len(sizes) or site.startswith("cell.input")
        torch.testing.assert_close(after[site][kept], sizes[kept], rtol=1e-4, atol=1e-6)
        assert bool((sizes[~kept][:, None] < sizes[kept]).all())
        dropped += int((~kept).sum())
    assert dropped > 0 and "thresholds" in said["by"]
    left = sum(counts_left(guide).values())
    assert abs(left - 2500) <= (96 + 32) // 2


def test_a_fit_under_a_budget_ends_within_a_component_of_it():
    fit = bp.fit(
        model_of(bp.LowRank(), "fast-grnn"), (X[:1400], Y[:1400]), epochs=8, learning_rate=0.5, seed=0,
        rules=[bp.Budget(density=0.4)], execution="plain",
    )  # fmt: skip
    (said,) = fit.settings["budget"]
    whole = 32 * 32 + 32 * 8
    assert said["whole"] == whole and abs(said["reached_count"] - 0.4 * whole) <= 64 // 2
    assert said["reached_count"] == sum(counts_left(fit.guide).values())
    assert fit.score(X[1400:], Y[1400:])["accuracy"] > 0.3
