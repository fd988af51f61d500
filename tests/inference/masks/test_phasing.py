"""Phasing of DyReLU: beside its formula, step by step; in both executions, killed and resumed; what it leaves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.defaults.ready_rules import default_rules_of
from bayesprune.inference.execution.objective_graph import leaves_of, trace
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.masks.phasing import Phasing
from bayesprune.inference.training import checkpoint as checkpoints
from bayesprune.inference.watching.callbacks import Callback
from bayesprune.models.networks.dyrelu import DyReLU
from bayesprune.models.networks.dyrelu_networks import dyrelus_of, with_dyrelu
from bayesprune.models.ready_networks import make_ready

SIZE, STEPS = 64, 24
GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(SIZE, 6, generator=GENERATOR)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()
SGD = {"optimizer": "sgd", "learning_rate": 0.1, "schedule": "cosine"}


class Seen(Callback):
    """beta, hyper-networks, what the optimizer holds of them, and calls of hyper-networks, after each step."""

    is_resumable = True

    def __init__(self, interrupt_at=None, stop_at=None):
        self.beta, self.frozen, self.own, self.held, self.rows = {}, {}, {}, {}, []
        self.interrupt_at, self.stop_at = interrupt_at, stop_at

    def on_step(self, state):
        layers = dyrelus_of(state.objective.model.network)
        self.beta[state.step] = [float(layer.beta) for layer in layers]
        self.frozen[state.step] = [bool(layer.frozen) for layer in layers]
        self.own[state.step] = [p.detach().clone() for layer in layers for p in layer.parameters()]
        parameters = [p for layer in layers for p in layer.parameters()]
        states = [state.optimizer.state.get(p, {}).get("momentum_buffer") for p in parameters]
        self.held[state.step] = sum(float(s.abs().sum()) for s in states if s is not None)
        if state.step == self.interrupt_at:
            raise KeyboardInterrupt
        if state.step == self.stop_at:
            state.stop = True

    def on_epoch(self, state):
        self.rows.append(state.history[-1])


def network(zero_start=False):
    torch.manual_seed(3)
    plain = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2)
    )
    return with_dyrelu(plain, X[:1], zero_start)


def model(made):
    return bp.BayesianNetwork(made, dict.fromkeys(bp.weight_names(made), bp.Gaussian()), data_size=SIZE)


def fitted(*rules, made=None, **more):
    how = {"steps": STEPS, "batch_size": 16, "device": "cpu", "precision": "float64", "execution": "plain", **SGD}
    bnn = model(network() if made is None else made)
    return bp.fit(bnn, (X, Y), guide="map", rules=list(rules), **{**how, **more})


def same(one, other):
    mine, theirs = ({n: t for part in (f.model, f.guide) for n, t in part.state_dict().items()} for f in (one, other))
    timed = dict.fromkeys(("seconds", "execution", "resumed_at_epoch"))
    return (
        mine.keys() == theirs.keys()
        and all(torch.equal(value, theirs[key]) for key, value in mine.items())
        and one.guide.notes == other.guide.notes
        and one.trace.drop_vars("seconds").identical(other.trace.drop_vars("seconds"))
        and {**one.settings, **timed} == {**other.settings, **timed}
    )


def test_it_is_the_schedule_of_the_specification_for_250_epochs():
    rule = Phasing(0.25, 0.5 - 1 / 250)
    found = {epoch: rule.beta(epoch / 250) for epoch in (0, 62, 63, 94, 123, 124, 200)}
    told = {0: 1.0, 62: 1.0, 63: 0.992, 94: 0.488, 123: 0.016, 124: 0.0, 200: 0.0}
    assert {epoch: round(beta, 3) for epoch, beta in found.items()} == told
    assert found[62] == 1.0 and found[124] == found[200] == 0.0
    by_hand = [1.0 - (epoch - 62.5) / (124 - 62.5) for epoch in range(63, 125)]
    for epoch, beta in zip(range(63, 125), by_hand, strict=True):
        assert abs(rule.beta(epoch / 250) - beta) < 1e-12
    assert round(Phasing().beta(94 / 250), 3) != 0.488  # control: a default that ends an epoch later


@pytest.mark.parametrize("steps", [16, 18, 23])  # the moments fall on steps, or between them
@pytest.mark.parametrize("execution", ["plain", "fused"])
def test_beta_moves_and_hyper_networks_freeze_step_by_step(steps, execution):
    seen = Seen()
    fit = fitted(steps=steps, callbacks=[seen], execution=execution, compiled=False)
    frozen_from = next(step for step in range(1, steps + 1) if (step - 1) / steps >= 0.25)
    for step in range(1, steps + 1):
        share = (step - 1) / steps
        beta = 1.0 if share < 0.25 else max(0.0, 1.0 - (share - 0.25) / 0.25)
        assert seen.beta[step] == pytest.approx([beta] * 2, abs=1e-12)
        assert seen.frozen[step] == [step >= frozen_from] * 2
        if step == 1:
            continue
        moved = [not torch.equal(a, b) for a, b in zip(seen.own[step], seen.own[step - 1], strict=True)]
        assert all(moved) if step < frozen_from else not any(moved)
        assert (seen.held[step] > 0.0) == (step < frozen_from)
    assert seen.beta[steps] == [0.0, 0.0] and 1 < frozen_from < steps / 2
    count = sum(1.25 * c**2 + 4.25 * c for c in (16, 12))
    assert fit.settings["phasing"] == [{"parameters": count, "active": False, "beta": 0.0}]
    assert seen.rows[0]["dyrelu_beta"] == 1.0 and seen.rows[-1]["dyrelu_beta"] == 0.0


def test_with_a_later_moment_they_go_on_being_trained():
    seen = Seen()
    fitted(Phasing(0.9, 1.0), callbacks=[seen])
    for step in range(2, 22):
        assert not any(torch.equal(a, b) for a, b in zip(seen.own[step], seen.own[step - 1], strict=True))


def test_both_executions_come_to_the_same():
    plain = fitted()
    fused = fitted(execution="fused", compiled=False)
    assert fused.settings["execution"]["graphs"] == 3 and fused.settings["execution"]["fused_steps"] == STEPS
    torch.testing.assert_close(
        torch.tensor(plain.trace["loss"].values), torch.tensor(fused.trace["loss"].values), rtol=1e-12, atol=0.0
    )
    for (name, one), (_, other) in zip(plain.model.state_dict().items(), fused.model.state_dict().items(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11, msg=name)
    other = fitted(Phasing(0.3, 0.5))
    assert float(abs(other.trace["loss"] - plain.trace["loss"]).max()) > 1e-6  # control


def test_graphs_hold_until_it_freezes_and_until_it_is_faded():
    bnn = model(network())
    objective = bp.objective(bnn, Guide(bnn, "map"))
    layers, x, y = dyrelus_of(objective.model.network), X[:8], Y[:8]

    def own(traced):
        of = {id(p) for layer in layers for p in layer.parameters()}
        return [
            moves for leaf, moves in zip(leaves_of(objective), traced.moves, strict=True) if id(leaf.parameter) in of
        ]

    def has(traced, name):
        return any(name in str(node.target) for node in traced.graph.graph.nodes)

    first = trace(objective, x, y)
    assert first.holds and all(own(first)) and len(own(first)) == 8 and has(first, "sigmoid")
    for layer in layers:
        layer.put(0.5)
    assert first.holds  # beta is an input
    for layer in layers:
        layer.freeze()
    assert not first.holds
    second = trace(objective, x, y)
    assert second.holds and not any(own(second)) and has(second, "sigmoid")
    for layer in layers:
        layer.put(0.0)
    assert not second.holds
    third = trace(objective, x, y)
    assert third.holds and not has(third, "sigmoid") and has(third, "relu") and not has(third, "maximum")
    layers[0].put(0.25)
    assert not third.holds


def test_no_hyper_network_is_calculated_after_the_end(monkeypatch):
    calls, residuals = [], DyReLU.residuals
    monkeypatch.setattr(DyReLU, "residuals", lambda self, x: calls.append(1) or residuals(self, x))

    class Calls(Callback):
        def on_fit_start(self, state):
            self.counts = [len(calls)]

        def on_step(self, state):
            self.counts.append(len(calls))

    watch = Calls()
    fitted(callbacks=[watch])
    each = [after - before for before, after in zip(watch.counts, watch.counts[1:], strict=False)]
    assert each == [2] * (STEPS // 2) + [0] * (STEPS // 2)  # of two layers


@pytest.mark.parametrize("at", [4, 9, 17])
def test_a_fit_that_was_killed_ends_as_one_that_was_not(at, tmp_path, monkeypatch):
    """Four steps an epoch: before it is frozen, while it fades, and after."""
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)
    whole = fitted(checkpoint=tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        fitted(callbacks=[Seen(at)], checkpoint=tmp_path / "fit")
    resumed = fitted(checkpoint=tmp_path / "fit")
    assert same(resumed, whole) and "resumed_at_epoch" in resumed.settings
    assert not same(fitted(seed=1), whole)  # control


def test_networks_bring_it_and_the_one_that_is_given_counts():
    bnn = model(network())
    assert [type(rule) for rule in default_rules_of(bnn, [])] == [Phasing]
    assert default_rules_of(bnn, [Phasing(0.1, 0.2)]) == []
    plain = bp.BayesianNetwork(nn.Linear(6, 2), {"weight": bp.Gaussian()}, data_size=SIZE)
    assert default_rules_of(plain, []) == []
    with pytest.raises(ValueError, match="Phasing fades DyReLU layers, but the network has none: make it by"):
        bp.fit(plain, (X, Y), rules=[Phasing()], steps=2)
    seen = Seen()
    fitted(Phasing(0.0, 0.25), callbacks=[seen])
    assert seen.beta[1] == [1.0, 1.0] and seen.beta[7] == [0.0, 0.0] and seen.frozen[1] == [True, True]


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_shares_out_of_order_are_refused(shares):
    with pytest.raises(ValueError, match="Phasing takes two shares of the fit, 0 <= begins < ends <= 1"):
        Phasing(*shares)


def test_what_comes_out_has_relu_and_none_of_its_parameters(tmp_path):
    fit = fitted(Phasing(0.5, 1.0))  # faded by the last word of the rule
    assert all(layer.is_faded for layer in dyrelus_of(fit.model.network)) and not fit.guide.notes
    pruned = bp.prune(fit, sparsity=0.3)
    assert not dyrelus_of(pruned.network) and not pruned.report.notes
    assert sum(isinstance(module, nn.ReLU) for module in pruned.network.modules()) == 2
    assert len(list(pruned.network.parameters())) == 8
    dense = bp.prune(fit, sparsity=0.0).network
    x = X.double()
    torch.testing.assert_close(dense(x).softmax(-1), fit.predict(x, draws=1).mean)
    assert not dyrelus_of(bp.finetune(pruned, (X, Y), epochs=1, device="cpu").network)
    small = bp.compact(pruned.network, x[:2]).network
    torch.testing.assert_close(small(x), pruned.network(x))
    bp.export_network(pruned.network, x[:2], tmp_path / "made")
    assert "DyReLU" not in (tmp_path / "made" / "network.py").read_text()


def test_a_fit_that_was_stopped_before_says_so_and_keeps_them(tmp_path):
    fit = fitted(callbacks=[Seen(stop_at=9)])
    (said,) = fit.guide.notes
    assert said.startswith("2 DyReLU layers were not faded into ReLUs, as the fit ended before (beta is 0.667)")
    (told,) = fit.settings["phasing"]
    assert told["active"] and told["beta"] == pytest.approx(2 / 3)
    pruned = bp.prune(fit, sparsity=0.3)
    assert len(dyrelus_of(pruned.network)) == 2 and said in pruned.report.notes
    assert said in fit.summary()["notes"]
    fit.save(tmp_path / "fit")
    again = bp.Fit.load(tmp_path / "fit", model(network()))
    assert float(dyrelus_of(again.model.network)[0].beta) == pytest.approx(2 / 3)


def extreme(execution="plain"):
    torch.manual_seed(0)
    images = torch.randn(32, 1, 8, 8)
    labels = (images.mean((1, 2, 3)) > 0).long()
    made = make_ready("resnet-20", (1, 8, 8), 2, 0.25, shared_blocks=2, dyrelu=True)
    bnn = bp.BayesianNetwork(made, dict.fromkeys(bp.weight_names(made), bp.Gaussian()), data_size=32)
    how = {"batch_size": 16, "epochs": 6, "precision": "float64", "execution": execution, "compiled": False}
    return bp.fit(bnn, (images, labels), guide="map", rules=[DynamicMasks(0.1, every=3)], device="cpu", **how)


def test_it_goes_with_masks_and_shared_blocks_and_is_read_again_without_code(tmp_path):
    fit = extreme()
    network, masks = fit.model.network, dict(fit.model.ways[0].masks.items())
    whole = sum(mask.numel() for mask in masks.values()) + bp.extra_weights(network)
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.1 * whole)
    fit.save(tmp_path / "fit")
    again, kept = bp.Fit.load(tmp_path / "fit"), fit.model.state_dict()
    assert again.model.state_dict().keys() == kept.keys()
    assert all(torch.equal(value, kept[name]) for name, value in again.model.state_dict().items())
    pruned = bp.prune(again, sparsity=0.95)
    assert pruned.network.config == {**make_ready("resnet-20", (1, 8, 8), 2, 0.25).config, "shared_blocks": 2}
    assert not dyrelus_of(pruned.network)


@pytest.mark.slow
def test_the_three_together_come_to_the_same_in_both_executions():
    plain, fused = extreme(), extreme("fused")
    assert fused.settings["execution"]["fused_steps"] > 0
    for (name, one), (_, other) in zip(plain.model.state_dict().items(), fused.model.state_dict().items(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9, msg=name)
