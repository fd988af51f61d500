"""What the user holds stays as it is during a fit: layers in evaluation mode, and frozen parameters without a prior."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.pruning.finetune import finetune
from bayesprune.inference.rules.iterate_average import IterateAverage

SIZE = 40
torch.manual_seed(4)
X = 3.0 + torch.randn(SIZE, 4)
Y = (X[:, 0] > 3).long()
HOW = {"epochs": 3, "batch_size": 10, "device": "cpu", "learning_rate": 0.05}


class Modes(bp.Callback):
    is_resumable = True

    def __init__(self):
        self.seen = set()

    def on_step(self, state):
        network = state.objective.model.network
        self.seen.add((network.training, network[1].training, network[3].training))

    on_epoch = on_step


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 2))


def model(net=None, **more):
    return bp.BayesianNetwork(net or network(), {"0.weight": bp.Gaussian()}, data_size=SIZE, **more)


def gated(net):
    gates = bp.UnitGates(kappa=0.1, weight_scale=0.3)
    return bp.BayesianNetwork(net, {}, data_size=SIZE, gates=gates, example_input=X[:1])


@pytest.mark.parametrize("execution", ["plain", "fused"])
def test_a_layer_held_in_evaluation_mode_stays_in_it_and_its_neighbour_is_trained(execution):
    modes, bnn = Modes(), model()
    bnn.network[1].eval()
    how = HOW | {
        "execution": execution,
        "compiled": False if execution == "fused" else None,
        "validation": (X, Y),
        "restarts": 2,
    }
    fit = bp.fit(bnn, (X, Y), callbacks=[modes], **how)
    assert modes.seen == {(True, False, True)}
    for one in fit.restarts:
        held, trained = one.model.network[1], one.model.network[3]
        assert held.num_batches_tracked == 0 and bool((held.running_mean == 0).all())
        assert trained.num_batches_tracked == 12 and bool((trained.running_mean != 0).any())
    assert bnn.network.training and not bnn.network[1].training
    free = bp.fit(model(), (X, Y), **how)  # control
    assert free.model.network[1].num_batches_tracked == 12


def test_held_statistics_are_used_and_survive_restarts_and_averages():
    net = network()
    net[1].running_mean.fill_(2.0)
    net[1].eval()
    fit = bp.fit(model(net), (X, Y), restarts=2, rules=[IterateAverage(0.5)], **HOW)
    for one in fit.restarts:
        assert bool((one.model.network[1].running_mean == 2.0).all())
    other = copy.deepcopy(net)
    other[1].running_mean.fill_(0.0)
    assert not torch.equal(
        fit.guide.families[0].location, bp.fit(model(other), (X, Y), restarts=2, **HOW).guide.families[0].location
    )


def test_a_network_in_evaluation_mode_as_a_whole_is_trained_as_a_whole():
    fit = bp.fit(model(network().eval()), (X, Y), **HOW)
    same = bp.fit(model(), (X, Y), **HOW)
    assert torch.equal(fit.guide.families[0].location, same.guide.families[0].location)
    assert fit.model.network[1].num_batches_tracked == 12


@pytest.mark.filterwarnings("ignore:all units of:UserWarning")
def test_a_layer_stays_in_evaluation_mode_when_units_are_removed(tmp_path):
    def layers():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.BatchNorm1d(30), nn.Linear(30, 2))

    net, modes = layers(), Modes()
    net[1].eval()
    how = HOW | {"epochs": 60}
    fit = bp.fit(gated(net), (X, Y), callbacks=[modes], checkpoint=tmp_path / "state", **how)
    assert fit.model.plan is not None and fit.model.network[0].out_features < 30
    assert modes.seen == {(True, False, True)}
    assert fit.model.network[1].num_batches_tracked == 0 and fit.model.network[3].num_batches_tracked > 0


def test_fine_tuning_holds_them_too():
    pruned = bp.prune(bp.fit(model(), (X, Y), **HOW), sparsity=0.5)
    before = pruned.network[1].running_mean.clone()
    free = finetune(pruned, (X, Y), 1, device="cpu")
    assert not torch.equal(free.network[1].running_mean, before)
    pruned.network.train()
    pruned.network[1].eval()
    held = finetune(pruned, (X, Y), 1, device="cpu")
    assert torch.equal(held.network[1].running_mean, before)
    assert not torch.equal(held.network[3].running_mean, pruned.network[3].running_mean)


def held_fit(**more):
    net = network()
    net[1].running_mean.fill_(2.0)
    net[1].eval()
    return bp.fit(model(net), (X, Y), **HOW, **more)


def is_held(net):
    """Whether the first layer's statistics are as they were, and whether the second one's have moved."""
    return bool((net[1].running_mean == 2.0).all()) and bool((net[3].running_mean != 0).any())


def test_a_layer_stays_held_in_what_comes_after_the_fit(tmp_path):
    first = held_fit()
    assert is_held(first.model.network)
    again = bp.fit(bp.BayesianNetwork(first.model.network, {"0.weight": bp.Gaussian()}, data_size=SIZE), (X, Y), **HOW)
    assert is_held(again.model.network)
    assert is_held(bp.fit(first.model, (X, Y), restarts=2, **HOW).restarts[1].model.network)
    pruned = bp.prune(again, sparsity=0.5, data=(X, Y))
    assert is_held(pruned.network) and "of 1 layers estimated again" in pruned.report.batch_normalisation
    tuned = finetune(finetune(pruned, (X, Y), 1, device="cpu"), (X, Y), 1, device="cpu")
    assert is_held(tuned.network) and not torch.equal(tuned.network[3].running_mean, pruned.network[3].running_mean)
    around = bp.laplace_around(first.model.network.requires_grad_(True), (X, Y), bp.Categorical())
    assert is_held(bp.prune(around, sparsity=0.5, data=(X, Y)).network)


def test_a_layer_stays_held_when_units_are_removed_and_in_a_smaller_network():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.BatchNorm1d(30), nn.Linear(30, 2))
    net[1].running_mean.fill_(2.0)
    net[1].eval()
    bnn = bp.BayesianNetwork(net, {"0.weight": bp.Gaussian()}, data_size=SIZE)
    pruned = bp.prune(bp.fit(bnn, (X, Y), **HOW), sparsity=0.9, data=(X, Y))
    assert is_held(pruned.network)
    small = pruned.compact(X[:2])
    norms = [layer for layer in small.network.modules() if isinstance(layer, nn.BatchNorm1d)]
    tuned = finetune(small, (X, Y), 1, device="cpu")
    after = [layer for layer in tuned.network.modules() if isinstance(layer, nn.BatchNorm1d)]
    assert len(norms) == len(after) == 2
    assert torch.equal(norms[0].running_mean, after[0].running_mean)
    assert not torch.equal(norms[1].running_mean, after[1].running_mean)


def test_a_loaded_fit_holds_what_its_declaration_holds(tmp_path):
    held_fit().save(tmp_path / "fit")
    bnn = model()
    bnn.network[1].eval()
    loaded = bp.Fit.load(tmp_path / "fit", bnn)
    assert is_held(bp.fit(loaded.model, (X, Y), **HOW).model.network)
    free = bp.Fit.load(tmp_path / "fit", model())  # control
    assert not is_held(bp.fit(free.model, (X, Y), **HOW).model.network)


def test_training_mode_lets_a_held_layer_go():
    first = held_fit()
    first.model.network.train()
    free = bp.fit(first.model, (X, Y), **HOW)
    assert not is_held(free.model.network)
    assert not is_held(bp.fit(free.model, (X, Y), **HOW).model.network)
    tuned = held_fit()
    assert not is_held(bp.prune(free, sparsity=0.5, data=(X, Y)).network)
    assert is_held(bp.prune(tuned, sparsity=0.5, data=(X, Y)).network)


def test_a_network_whose_layers_are_all_held_keeps_all_statistics():
    net = network()
    net[1].eval(), net[3].eval()
    pruned = bp.prune(bp.fit(model(net), (X, Y), **HOW), sparsity=0.5, data=(X, Y))
    assert "held in evaluation mode" in pruned.report.batch_normalisation
    assert all(bool((pruned.network[k].running_mean == 0).all()) for k in (1, 3))


# -- frozen parameters ---------------------------------------------------------------------------------------


def test_a_frozen_weight_under_a_prior_is_refused_when_it_is_declared():
    net = network()
    net[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"0.weight is frozen .*call requires_grad_\(True\) on it, or leave it out"):
        model(net)
    for name, other in ((0, 4), (4, 0)):
        frozen = network()
        frozen[name].weight.requires_grad_(False)
        said = rf"{name}.weight is frozen .*but gates of .* requires_grad_\(True\) on it, or leave out gates="
        with pytest.raises(ValueError, match=said):
            gated(frozen)
        frozen[name].weight.requires_grad_(True)
        gated(frozen)
        frozen[name].weight.requires_grad_(False)
        bp.BayesianNetwork(frozen, {f"{other}.weight": bp.Gaussian()}, data_size=SIZE)  # the other remedy
    net[0].weight.requires_grad_(True)
    net[4].weight.requires_grad_(False)
    model(net)


def test_what_a_prior_has_frozen_itself_is_declared_again():
    first = bp.fit(model(), (X, Y), **HOW)
    again = model(first.model.network)
    bp.fit(again, (X, Y), start=first, **HOW)
    model(copy.deepcopy(model(again.network).network))
    pruned = bp.prune(first, sparsity=0.5)
    model(pruned.network)
    compact = pruned.compact(X[:2])
    model(compact.network)
    pruned.network[0].weight.requires_grad_(False)  # by the user, though a prior had it once
    with pytest.raises(ValueError, match="0.weight is frozen"):
        model(pruned.network)


def test_a_loaded_fit_may_be_declared_again(tmp_path):
    bp.fit(model(), (X, Y), **HOW).save(tmp_path / "fit")
    model(bp.Fit.load(tmp_path / "fit", model()).model.network)


def test_a_frozen_parameter_without_a_prior_comes_back_frozen_and_unchanged():
    net = network()
    net[4].weight.requires_grad_(False)
    frozen = net[4].weight.clone()
    fit = bp.fit(model(net), (X, Y), restarts=2, **HOW)
    for number, one in enumerate(fit.restarts):
        weight = one.model.network[4].weight
        assert torch.equal(weight, frozen) and not weight.requires_grad
        pruned = bp.prune(fit, sparsity=0.5, restart=number).network
        assert torch.equal(pruned[4].weight, frozen) and not pruned[4].weight.requires_grad
        assert pruned[0].weight.requires_grad and pruned[4].bias.requires_grad
        assert not torch.equal(one.model.network[4].bias, net[4].bias)
    assert not net[4].weight.requires_grad


@pytest.mark.filterwarnings("ignore:.*all units:UserWarning")
@pytest.mark.parametrize("by", ["prior", "gates"])
def test_units_are_cut_out_of_frozen_normalisation_after_a_fit(by):
    net = network()
    net[1].requires_grad_(False)
    if by == "prior":
        rows = torch.arange(6.0)[:, None].expand(6, 4)
        pruned = bp.prune(bp.fit(model(net), (X, Y), **HOW), sparsity=0.5, criterion=lambda fit, _: {"0.weight": rows})
    else:
        pruned = bp.prune(bp.fit(gated(net), (X, Y), **HOW | {"epochs": 30}), min_inclusion=0.5)
    small = pruned.compact()
    layer = small.network[1]
    assert layer.weight.shape == layer.bias.shape and 0 < len(layer.weight) < 6
    assert not layer.weight.requires_grad and not layer.bias.requires_grad
    assert small.network[3].weight.requires_grad and small.network[0].weight.requires_grad  # control
    # In double: a unit without weights has no variance, and normalisation makes 300 times of its rounding errors.
    assert torch.allclose(small.network.double()(X.double()), pruned.network.double()(X.double()), atol=1e-7)
