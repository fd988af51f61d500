"""Models of networks with masked layers: weights that the structure has not are zeros wherever anything is said."""

from __future__ import annotations

import copy
import json

import pyro
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.models.costs.costs import costs
from bayesprune.models.structure.graph_network import graph_network
from bayesprune.models.structure.masked_linear import MaskedLinear, masks_of
from bayesprune.models.structure.random_graphs import BarabasiAlbert
from bayesprune.models.structure.structure_masks import StructureMasks, structure_of
from bayesprune.models.units.compact import compact
from bayesprune.models.ways.plain_layers import plain_network

EVERY = "*.weight"


def small(**options):
    """A network of 12 vertices, with data that it can learn."""
    pyro.set_rng_seed(0)
    network = graph_network(BarabasiAlbert(12, 3), (4,), 3, **options)
    x = torch.randn(120, 4)
    return network, x, x[:, :3].argmax(1)


@pytest.fixture(scope="module")
def fitted():
    network, x, y = small()
    model = bp.BayesianNetwork(network, {EVERY: bp.SpikeAndSlab()}, data_size=len(x))
    return bp.fit(model, (x, y), epochs=40, seed=0), x, y


def test_a_model_brings_the_structure_of_the_weights_that_have_a_prior():
    network, x, _ = small()
    masks = {name: mask for name, mask in masks_of(network).items() if not bool(mask.all())}
    model = bp.BayesianNetwork(network, {EVERY: bp.Gaussian()}, data_size=len(x))
    (way,) = model.ways
    assert isinstance(way, StructureMasks) and way.counts() == {name: int(mask.sum()) for name, mask in masks.items()}
    assert not way.state_dict() and not model.sites.keys() - model.priors.keys()
    assert f"structure: {sum(way.counts().values())} of " in str(model)
    values = {site: torch.ones(one.shape) for site, one in model.sites.items()}
    for found in (model.weights_at(values), model.sample_weights()):
        assert all(bool(((found[name] != 0) == mask).all()) for name, mask in masks.items())
    some = bp.BayesianNetwork(network, {"layers.0.weight": bp.Gaussian()}, data_size=len(x))
    assert not some.ways and structure_of(nn.Linear(3, 2), ["weight"]) is None
    full = nn.Sequential(MaskedLinear(torch.ones(2, 3)))
    assert structure_of(full, ["0.weight"]) is None  # nothing is left out


def test_draws_counts_inclusion_and_trees_leave_out_what_there_is_not(fitted):
    fit, x, _ = fitted
    masks = masks_of(fit.model.network)
    probabilities = fit.inclusion_probabilities()
    for name, mask in masks.items():
        found = torch.as_tensor(probabilities[name].values)
        assert bool((found[~mask] == 0).all()) and bool((found[mask] > 0).all())
    table = fit.effective_parameters()
    for name, mask in masks.items():
        assert float(table["upper"].sel(tensor=name)) <= int(mask.sum())
    tree = bp.to_arviz(fit, draws=5)
    for name, mask in masks.items():
        drawn = torch.as_tensor(tree["posterior"][name].values)
        assert bool((drawn[..., ~mask] == 0).all()) and bool((drawn[..., mask] != 0).any())


def test_prune_ranks_what_there_is_and_gives_a_plain_network(fitted):
    fit, x, y = fitted
    masks = masks_of(fit.model.network)
    missing = sum(int((~mask).sum()) for mask in masks.values())
    total = sum(weight.numel() for name, weight in fit.model.network.named_parameters() if name.endswith("weight"))
    for result in (bp.prune(fit, sparsity=0.7), bp.prune(fit, min_inclusion=0.5), bp.prune(fit)):
        assert all(not bool((result.masks[name] & ~mask).any()) for name, mask in masks.items())
        assert not any(isinstance(module, MaskedLinear) for module in result.network.modules())
        kept = sum(int(mask.sum()) for mask in result.masks.values())
        assert kept <= total - missing
        for name, mask in result.masks.items():
            assert bool((result.network.get_parameter(name)[~mask] == 0).all())
        tuned = bp.finetune(result, (x, y), epochs=2)
        for name, mask in masks.items():
            assert bool((tuned.network.get_parameter(name)[~mask] == 0).all())
    pruned = bp.prune(fit, sparsity=0.7)
    assert sum(int(mask.sum()) for mask in pruned.masks.values()) == total - round(0.7 * total)
    with pytest.raises(ValueError, match="^the fit already has sparsity"):
        bp.prune(fit, sparsity=0.5 * missing / total)
    as_left = bp.prune(fit).network
    torch.testing.assert_close(compact(as_left, x[:4]).network(x), as_left(x))
    assert costs(pruned.network, x[:1]).layers["layers.0"].nonzero == int(pruned.masks["layers.0.weight"].sum())


def test_masked_layers_without_a_prior_stay_what_they_are():
    """A fine-tuning would fill the zeros of a plain one, as it holds those of weights with a prior only."""
    network, x, y = small(readout="sinks")
    name = next(name for name, mask in masks_of(network).items() if not bool(mask.all()))
    model = bp.BayesianNetwork(network, {"layers.0.weight": bp.SpikeAndSlab(), name: bp.SpikeAndSlab()}, data_size=120)
    result = bp.prune(bp.fit(model, (x, y), epochs=2, seed=0))
    left = {n for n, module in result.network.named_modules() if isinstance(module, MaskedLinear)}
    assert left == {n.removesuffix(".weight") for n in masks_of(network)} - {name.removesuffix(".weight")}
    tuned = bp.finetune(result, (x, y), epochs=2).network
    assert torch.equal(plain_network(tuned, list(masks_of(tuned)))(x), tuned(x))


def test_weights_that_there_are_not_cost_nothing():
    """The KL term is that of the edges alone, beside a sum over them by torch."""
    network, x, y = small()
    model = bp.BayesianNetwork(network, {EVERY: bp.Gaussian(0.5)}, data_size=120)
    fit = bp.fit(model, (x, y), epochs=3, seed=0, precision="float64")
    one, masks, total, everywhere = fit.restarts[0], masks_of(fit.model.network), 0.0, 0.0
    factors = one.guide.draw()
    for name in one.model.priors:
        q = torch.distributions.Normal(factors[name].location.detach(), factors[name].scale.detach())
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(torch.zeros_like(q.loc), 0.5))
        there = masks.get(name, torch.ones_like(kl, dtype=torch.bool))
        assert float(kl[~there].abs().sum()) < 1e-9 * float(kl.sum())
        total += float(kl[there].sum())
        everywhere += float(kl.sum())
    assert everywhere == pytest.approx(total, rel=1e-9) and total > 1.0


def test_fits_are_saved_and_loaded_without_code_and_not_into_another_graph(fitted, tmp_path):
    fit, x, _ = fitted
    fit.save(tmp_path / "fit")
    declared = json.loads((tmp_path / "fit" / "fit.json").read_text())
    assert set(declared["ways"]) == {"structure"} and len(declared["network"]["graph"]["edges"]) == 27
    loaded = bp.Fit.load(tmp_path / "fit")
    torch.testing.assert_close(bp.prune(loaded).network(x), bp.prune(fit).network(x))
    other, edges = copy.deepcopy(fit.model.network), list(fit.model.network.graph.edges)
    layer = next(m for m in other.modules() if isinstance(m, MaskedLinear) and 1 < int(m.mask.sum()) < m.mask.numel())
    layer.mask.copy_(layer.mask.flip(1).logical_not())
    layer.mask[0, 0] = True
    assert edges == list(other.graph.edges)
    model = bp.BayesianNetwork(other, {EVERY: bp.SpikeAndSlab()}, data_size=120)
    with pytest.raises(ValueError, match="was fitted with other structure between weights and network"):
        bp.Fit.load(tmp_path / "fit", model=model)


def test_what_is_not_held_to_a_structure_is_refused_in_a_sentence():
    network, x, y = small()
    model = bp.BayesianNetwork(network, {EVERY: bp.Gaussian()}, data_size=120)
    with pytest.raises(ValueError, match="^DynamicMasks lets weights come anywhere, but masked layers") as told:
        bp.fit(model, (x, y), epochs=1, rules=[bp.DynamicMasks(0.5)])
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="^channels cannot be followed through") as told:
        bp.BayesianNetwork(network, {}, data_size=120, gates=bp.UnitGates(kappa=1e-3))
    assert "\n" not in str(told.value)


def test_networks_without_masked_layers_have_no_such_way():
    model = bp.BayesianNetwork(bp.lenet_300_100(4, 3, (5, 5)), {EVERY: bp.Gaussian()}, data_size=120)
    assert not list(model.ways)
