"""What a review found wrong with gates of units: each case failed once, at a removal, a mask or a count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.rules.gate_training import RECORDS
from bayesprune.inference.watching.callbacks import Callback
from bayesprune.models.unit_removal import without_units
from bayesprune.models.units.cutting import cut
from bayesprune.models.units.residual_branches import residual_branches

SIZE = 64
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(SIZE, 6, generator=GENERATOR)
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
TOKENS = torch.randn(SIZE, 4, 5, generator=GENERATOR)


class Block(nn.Module):
    """Two residual sums, whose branches are named after the block while both are there."""

    def __init__(self):
        super().__init__()
        self.a1, self.a2, self.b1, self.b2 = nn.Linear(8, 5), nn.Linear(5, 8), nn.Linear(8, 5), nn.Linear(5, 8)

    def forward(self, x):
        x = x + self.a2(torch.relu(self.a1(x)))
        return x + self.b2(torch.relu(self.b1(x)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(6, 8), Block(), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.block(torch.relu(self.stem(x))))


class Tokens(nn.Module):
    """Layers that read tokens: `(batch, token, ...)`, or with the tokens first, or flattened into the batch."""

    def __init__(self, order):
        super().__init__()
        self.a, self.b, self.order = nn.Linear(5, 8), nn.Linear(8, 3), order

    def forward(self, x):
        if self.order == "flattened":
            return self.b(torch.relu(self.a(x.reshape(-1, 5)))).reshape(x.shape[0], -1, 3).mean(1)
        if self.order == "first":
            return self.b(torch.relu(self.a(x.transpose(0, 1)))).mean(0)
        return self.b(torch.relu(self.a(x))).mean(1)


class Close(Callback):
    """Closes gates at given steps: all, those of a site, or the first branch that is left."""

    def __init__(self, at, which):
        self.at, self.which, self.rates = at, which, []

    @torch.no_grad()
    def on_step(self, state):
        q = state.objective.guide.gates
        if state.step in self.at:
            branches = [site for site, one in q.gates.sets.items() if one.is_layer]
            for site in {"all": list(q.gates.sets), "branch": branches[:1]}.get(self.which, [self.which]):
                q.by_site(q.theta.data)[site].zero_()
                q.by_site(q.absorbed)[site].fill_(True)
        self.rates.append([group["lr"] for group in state.optimizer.param_groups])


def model(network=None, priors=None, x=X, **gates):
    torch.manual_seed(0)
    gates = bp.UnitGates(**(gates if "cost" in gates else {"kappa": 1e-3, **gates}))
    return bp.BayesianNetwork(network or Residual(), priors or {}, gates=gates, data_size=SIZE, example_input=x[:1])


def perceptron():
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3))


def fitted(bnn, close=None, x=X, gating=None, **options):
    """A fit in float64 whose theta hardly moves by itself."""
    options = {"epochs": 3, "batch_size": 16, "callbacks": [close] if close else []} | options
    gating = gating or bp.Gating(travel=1e3)
    return bp.fit(bnn, (x, Y), rules=[gating] if gating else [], device="cpu", precision="float64", **options)


def only(bnn, *sites):
    """Which gates are closed: those of some sites."""
    return {site: torch.full((one.count,), site in sites) for site, one in bnn.gates.sets.items()}


# -- branches that leave -------------------------------------------------------------------------------------


@pytest.mark.parametrize("remove", ["epoch", 1])
@pytest.mark.parametrize("prior", [bp.HALO(), bp.SpikeAndSlab()], ids=["halo", "spike-and-slab"])
def test_a_group_of_the_optimizer_may_leave_with_a_branch(prior, remove):
    """All tensors with the prior lie in the branch; the rates of the other groups go on as in a fit without it."""
    priors, gating = {"block.a*.weight": prior}, bp.Gating(travel=1e3, remove=remove)
    close, apart = Close([2], "block.a2.layer_gate"), Close([], "all")
    result = fitted(model(priors=priors, layers=True), close, schedule="cosine", gating=gating)
    fitted(model(priors=priors, layers=True), apart, schedule="cosine", gating=gating)
    assert result.model.plan["branches_removed"] == ["block.a2"] and "block.a2.weight" not in result.model.priors
    assert len(close.rates[-1]) < len(close.rates[0]) == len(apart.rates[-1])  # a group has left
    later = [rates[0] for rates in close.rates[4:]]  # each step sets them, and the group has left by the fourth
    assert later == [rates[0] for rates in apart.rates[4:]] and len(set(later)) == 8  # the control: the schedule moves


def test_a_plan_names_branches_as_they_were_declared():
    """Of two residual sums in a block the second has another name once the first is gone."""
    bnn = model(layers=True)
    declared = list(residual_branches(bnn.network, bnn.example_input))
    once = without_units(bnn, only(bnn, f"{declared[0]}.layer_gate")).model
    (name,) = once.gates.branches
    assert name not in declared  # the control: the name has changed
    twice = without_units(once, only(once, f"{name}.layer_gate")).model
    assert once.plan["branches_removed"] == declared[:1] and sorted(twice.plan["branches_removed"]) == declared
    x = X.double()
    again = cut(bnn.network.double(), x[:1], twice.plan, keep_mode=True)
    assert torch.equal(again(x), twice.network.double()(x)) and not torch.allclose(again(x), once.network.double()(x))


def test_a_fit_that_lost_two_branches_of_a_block_is_loaded_and_pruned(tmp_path):
    bnn = model(layers=True)
    result = fitted(bnn, Close([3, 7], "branch"))
    assert sorted(result.model.plan["branches_removed"]) == ["block.a2", "block.b2"]
    result.save(tmp_path / "fit")
    loaded, expected = bp.Fit.load(tmp_path / "fit", model=bnn), result.predict(X).mean
    assert torch.equal(loaded.predict(X).mean, expected)
    pruned = bp.prune(result, min_inclusion=0.5).network.double()
    assert torch.allclose(pruned(X.double()).softmax(-1), expected.double(), atol=1e-12)
    with torch.no_grad():
        pruned.block.a2.bias.add_(1.0)  # the control: a branch that is there is seen
    assert not torch.allclose(pruned(X.double()).softmax(-1), expected.double(), atol=1e-3)


# -- masks for each example ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "per_example"), [("batch", True), ("flattened", False), ("first", False)])
def test_masks_for_each_example_are_for_layers_that_read_the_batch_first(order, per_example):
    """The batches hold as many examples as there are tokens, or not; only the first hides the mistake."""
    for batch_size in (4, 16):
        bnn = model(Tokens(order), x=TOKENS)
        assert bnn.gates.per_example is per_example
        result = fitted(bnn, x=TOKENS, epochs=1, batch_size=batch_size)
        assert bool(torch.isfinite(result.predict(TOKENS).mean).all())
    network, x = bnn.network.double(), TOKENS[:4].double()
    masks = (torch.rand(4, 8, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    alone = [bnn.gates.weights({}, {"a.gate": mask}, network) for mask in masks]
    rows = torch.cat([torch.func.functional_call(network, w, (x[i : i + 1],)) for i, w in enumerate(alone)])
    with bnn.gates.inside(network, {"a.gate": masks}):  # the control: what such masks do there
        if order == "flattened":
            with pytest.raises(RuntimeError, match="size of tensor"):
                network(x)
        else:
            assert torch.allclose(network(x), rows, atol=1e-12) is per_example


# -- prices --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("leaves", ["units", "branch"])
def test_costs_and_prices_do_not_jump_when_what_is_closed_leaves(share, leaves):
    bnn = model(layers=True, cost=bp.CostPressure(1.0, macs=0.6, layers=share))
    site = {"units": "block.a1.gate", "branch": "block.b2.layer_gate"}[leaves]
    theta = {s: torch.linspace(0.9, 0.7, one.count).double() for s, one in bnn.gates.sets.items()}
    closed = only(bnn)
    closed[site][: 3 if leaves == "units" else 1] = True
    left = without_units(bnn, closed).model.gates

    def compared(value):
        """Costs before and after the removal, and the prices of what is left, with a value for what is closed."""
        before = {s: torch.where(closed[s], value, t) for s, t in theta.items()}
        everything = torch.cat(list(before.values()))
        kept = torch.cat([~closed[s] for s in before])
        if leaves == "branch":  # the gates of units inside leave with it
            kept &= torch.cat([torch.full((len(t),), not s.startswith("block.b1.")) for s, t in before.items()])
        after = dict(zip(left.sets, everything[kept].split([one.count for one in left.sets.values()]), strict=True))
        prices = torch.cat(list(bnn.gates.prices(before).values()))[kept], torch.cat(list(left.prices(after).values()))
        return bnn.gates.cost(before), left.cost(after), *prices

    before, after, price_before, price_after = compared(0.0)
    assert torch.allclose(before, after, rtol=1e-12, atol=0) and torch.allclose(price_before, price_after, rtol=1e-12)
    before, after, price_before, price_after = compared(0.5)  # the control: what is half open is missed
    assert float(before) > float(after) * 1.001
    if leaves == "units" or share != 1.0:  # what a branch costs with all units open does not hang on other branches
        assert not torch.allclose(price_before, price_after, rtol=1e-6)


def test_the_step_of_theta_follows_the_weight_of_the_prior():
    """Prices count kl_weight times: a tenth of it with ten times the price is the same objective, for theta."""

    def step(kl_weight, kappa):
        result = fitted(model(perceptron(), kappa=kappa), epochs=1, kl_weight=kl_weight)
        return result.settings["gating"][0]["step"]

    assert step(0.1, 2e-2) == pytest.approx(step(1.0, 2e-3), rel=1e-12)
    assert step(0.1, 2e-2) == pytest.approx(10 * step(1.0, 2e-2), rel=1e-12)  # the control


# -- counts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [bp.SpikeAndSlab(), bp.Gaussian()], ids=["spike-and-slab", "gaussian"])
def test_the_trace_counts_weights_of_closed_units_as_zeros(prior):
    sparsities = {}
    for which, at in (("all", [2]), ("0.gate", [2]), ("none", [])):
        bnn = model(perceptron(), {"*.weight": prior})
        result = fitted(bnn, Close(at, which), gating=bp.Gating(travel=1e3, round_at=None, remove=None))
        sparsities[which] = float(result.trace["network_sparsity"][0, -1])
        if isinstance(prior, bp.SpikeAndSlab):
            assert result.summary()["sparsity"] == pytest.approx(sparsities[which], abs=1e-12)
    assert sparsities["all"] == 1.0 and 1.0 > sparsities["0.gate"] > sparsities["none"]


def test_effective_parameters_count_no_weight_of_a_closed_unit():
    torch.set_default_dtype(torch.float64)
    bnn = model(perceptron(), {"*.weight": bp.Horseshoe()})
    result = fitted(bnn, gating=bp.Gating(travel=1e3, round_at=None, remove=None))
    q = result.guide.gates
    with torch.no_grad():  # no gate is random
        q.theta.fill_(1.0)
        q.by_site(q.theta)["0.gate"].zero_()
    effective = result.effective_parameters(draws=20)["mean"]
    kappa, open_ = result.shrinkage_factors(draws=20), result.guide.open_units(0.5)
    expected = [float(((1.0 - kappa[n].values) * open_[n].numpy()).sum()) for n in kappa]
    regardless = [float((1.0 - kappa[n].values).sum()) for n in kappa]
    assert effective.values.tolist() == pytest.approx(expected, rel=1e-12)
    assert expected[:2] == [0.0, 0.0] and expected[2] == regardless[2] and min(regardless) > 0.1  # the control


# -- what is refused, and what is recorded at the end --------------------------------------------------------


def test_a_warm_start_is_refused_with_gates():
    result = fitted(model(perceptron()), epochs=1)
    with pytest.raises(ValueError, match="start= is not for gates of units"):
        fitted(model(perceptron()), epochs=1, start=result)
    plain = bp.BayesianNetwork(perceptron(), {"*.weight": bp.Gaussian()}, data_size=SIZE)
    first = bp.fit(plain, (X, Y), epochs=1, device="cpu")
    assert bp.fit(plain, (X, Y), epochs=1, device="cpu", start=first).settings["warm_start"]  # the control


def test_pruning_each_layer_puts_no_removed_weight_back():
    result = fitted(model(priors={"block.*.weight": bp.SpikeAndSlab()}, layers=True), Close([2], "branch"))
    assert result.model.plan["branches_removed"]
    with pytest.raises(ValueError, match=r"hold 40 of the 40 weights of block\.a1\.weight.*0.9 asked for in each"):
        bp.prune(result, sparsity=0.9, per="layer")
    whole = bp.prune(result, sparsity=0.9)  # the control: there is room in the others
    assert round(0.9 * whole.report.weights) == whole.report.weights - whole.report.nonzero and not bool(
        whole.masks["block.a1.weight"].any()
    )
    assert {name: int(mask.sum()) for name, mask in whole.masks.items()} == {
        name: entry["nonzero"] for name, entry in whole.report.per_tensor.items()
    }


def test_a_fit_that_is_stopped_early_has_recorded_its_last_step():
    class Stop(Callback):
        def on_step(self, state):
            state.stop = state.step >= 41

    result = fitted(model(perceptron()), Stop(), steps=400, epochs=None, batch_size=SIZE)
    assert int(result.trace["gate_step"][0, -1]) == bp.training_costs(result).steps == 41
    assert 41 % max(1, 400 // RECORDS)  # the control: it is no step that is recorded anyway
