"""A fit of an objective that was trained in a loop of one's own: what it knows, does not know, and refuses."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import bayesprune as bp
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.runtime.one_process import OneProcess
from bayesprune.inference.watching import record as record_module
from bayesprune.inference.watching.trace_file import read_progress
from tests.oracles.own_loops import fit_by, trained_by

SIZE = 60
X = torch.randn(SIZE, 4, generator=torch.Generator().manual_seed(3))
Y = (X[:, 1] > 0).long()
LOOPS = ("torch", "svi")


def network(prior=None, size=SIZE, **more):
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    return bp.BayesianNetwork(layers, {"0.weight": prior or bp.SpikeAndSlab(0.4)}, data_size=size, **more)


def normalised():
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    return bp.BayesianNetwork(layers, {"0.weight": bp.Gaussian(1.0)}, data_size=SIZE)


@pytest.fixture(scope="module", params=LOOPS)
def made(request):
    pyro.set_rng_seed(0)
    return fit_by(request.param, network(), (X, Y), epochs=4, batch_size=20, learning_rate=0.02)


@pytest.fixture(scope="module", params=LOOPS)
def unrecorded(request):
    pyro.set_rng_seed(0)
    return fit_by(request.param, network(), (X, Y), epochs=4, batch_size=20, recorded=False)


@pytest.fixture(scope="module", params=[(way, recorded) for way in LOOPS for recorded in (True, False)], ids=str)
def either(request):
    pyro.set_rng_seed(0)
    return fit_by(request.param[0], network(), (X, Y), epochs=4, batch_size=20, recorded=request.param[1])


# -- what Pyro's SVI trains ------------------------------------------------------------------------------------


def test_svi_trains_the_guide_the_point_estimates_and_the_likelihood_but_nothing_frozen():
    bnn = bp.BayesianNetwork(nn.Linear(4, 1), {"weight": bp.Gaussian(1.0)}, bp.Normal(), SIZE)
    held = bp.BayesianNetwork(nn.Linear(4, 1), {"weight": bp.Gaussian(1.0)}, bp.Normal(), SIZE)
    held.network.bias.requires_grad_(False)
    for model in (bnn, held):
        loss = bp.objective(model, "meanfield")
        before = {name: value.clone() for name, value in loss.named_parameters()}
        svi = SVI(model, loss.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        for _ in range(3):
            svi.step(X, X[:, 0])
        moved = {name for name, value in loss.named_parameters() if not torch.equal(value, before[name])}
        learned = {name for name, value in loss.named_parameters() if value.requires_grad}
        assert moved == learned and any("likelihood" in name for name in moved)
        assert ("model.network.bias" in moved) is (model is bnn)


def test_svi_reaches_the_exact_posterior_of_a_linear_regression():
    """Conjugate, with orthogonal features, so that the mean-field posterior is the exact one."""
    q, _ = torch.linalg.qr(torch.randn(SIZE, 3, dtype=torch.float64))
    x = math.sqrt(SIZE) * q
    y = x @ torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64) + 0.5 * torch.randn(SIZE, dtype=torch.float64)
    linear = nn.Linear(3, 1, bias=False).double()
    bnn = bp.BayesianNetwork(linear, {"weight": bp.Gaussian(1.0)}, bp.Normal(0.5), SIZE)
    loss = bp.objective(bnn, "meanfield")
    svi = SVI(bnn, loss.guide, pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.99}), Trace_ELBO())
    for _ in range(500):
        svi.step(x, y)
    precision = SIZE / 0.25 + 1.0
    mean, sd = x.T @ y / 0.25 / precision, precision**-0.5
    (family,) = loss.guide.families
    assert float((family.location.detach() - mean).abs().max()) < 0.5 * sd
    assert float((family.log_scale.detach() - math.log(sd)).abs().max()) < 0.15


def test_a_second_model_is_not_given_the_parameters_of_the_first():
    """Pyro's parameter store is one for all: under one name both would be the same."""
    first, second = (trained_by("svi", network(), (X, Y), steps=2)[0] for _ in range(2))
    assert len(pyro.get_param_store()) == len(
        [p for one in (first, second) for p in one.parameters() if p.requires_grad]
    )
    before = [p.clone() for p in first.parameters()]
    SVI(second.model, second.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(X, Y)
    assert all(torch.equal(p, b) for p, b in zip(first.parameters(), before, strict=True))


def test_only_a_step_of_svi_fills_the_parameter_store():
    loss = bp.objective(network())
    Trace_ELBO().loss(loss.model, loss.guide, X, Y)
    loss.model(X, Y)
    assert len(pyro.get_param_store()) == 0
    SVI(loss.model, loss.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(X, Y)
    assert len(pyro.get_param_store()) > 0


# -- the trace -------------------------------------------------------------------------------------------------


def loop_like_fit(epochs):
    """What `fit` does with these settings, by hand."""
    bnn, order = network(), OneProcess(torch.device("cpu"), torch.float32)
    with order.restart(0):
        return _looped(bnn, order.data_order, epochs)


def _looped(bnn, order, epochs):
    loss = bp.objective(copy.deepcopy(bnn)).train()
    optimizer = torch.optim.SGD(loss.parameters(), 0.01, momentum=0.9)
    record = bp.Record(loss, optimizer)
    for _ in range(epochs):
        for rows in torch.randperm(SIZE, generator=order).split(20):
            optimizer.zero_grad()
            (loss(X[rows], Y[rows], kl_weight=0.5) / SIZE).backward()
            optimizer.step()
            record.step()
        record.epoch()
    return bp.Fit.of(loss, (X, Y), record)


def test_a_loop_that_does_what_fit_does_has_its_trace():
    settings = {"optimizer": "sgd", "learning_rate": 0.01, "schedule": "constant", "kl_warmup": 0.0, "kl_weight": 0.5}
    expected = bp.fit(network(), (X, Y), epochs=3, batch_size=20, execution="plain", device="cpu", **settings)
    found, other = loop_like_fit(3), loop_like_fit(4)
    left = ["seconds"]  # nobody's clock is another's
    xr.testing.assert_allclose(found.trace.drop_vars(left), expected.trace.drop_vars(left).drop_attrs(), rtol=1e-5)
    with pytest.raises(AssertionError):
        xr.testing.assert_allclose(other.trace.drop_vars(left), expected.trace.drop_vars(left), rtol=1e-5)
    same = (
        "steps",
        "epochs",
        "kl_weight",
        "kl_warmup",
        "tempered",
        "optimizer",
        "learning_rate",
        "precision",
        "device",
    )
    assert {k: found.settings[k] for k in same} == {k: expected.settings[k] for k in same}
    for name, value in found.guide.state_dict().items():
        torch.testing.assert_close(value, expected.guide.state_dict()[name])
    assert found.summary()["kl"] == pytest.approx(expected.summary()["kl"], rel=1e-5)


def test_of_a_loss_that_is_given_the_kl_term_is_that_of_the_guide():
    loss, record = trained_by(
        "svi", network(bp.Gaussian(0.7)), (X, Y), "meanfield", steps=3, batch_size=20, learning_rate=0.05
    )
    (family,) = loss.guide.families
    q = dist.Normal(family.location, family.log_scale.exp())
    expected = float(torch.distributions.kl_divergence(q, dist.Normal(0.0, 0.7)).sum().detach())
    row = record.state.history[-1]
    assert row["kl_of"]["0.weight"] == pytest.approx(expected, rel=1e-5)
    assert row["expected_log_likelihood"] == pytest.approx(row["kl"] - row["loss"])
    assert abs(row["kl"] - expected) > 1e-4  # the control: of the epoch it is the mean over its steps


def test_the_kl_weight_of_a_loop_and_its_rise_are_known():
    loss = bp.objective(network())
    record = bp.Record(loss)
    for step in range(8):
        loss(X, Y, kl_weight=min(1.0, 0.25 * (step + 1)) * 0.5)
        record.step()
    found = bp.Fit.of(loss, (X, Y), record).settings
    assert (found["kl_weight"], found["tempered"], found["kl_warmup"]) == (0.5, True, 3 / 8)
    loss(X, Y)
    assert bp.Fit.of(loss, (X, Y)).settings["kl_weight"] == 1.0
    assert bp.Fit.of(loss, (X, Y)).settings["tempered"] is False


def test_a_long_loop_keeps_as_many_iterates_as_there_is_room_for(monkeypatch):
    monkeypatch.setattr(record_module, "MOST", 8)
    _, record = trained_by("svi", network(), (X, Y), steps=40)
    found = record.state.iterates
    assert 4 <= len(found) < 8 and [row["step"] for row in found] == list(range(8, 41, 8))
    loss = bp.objective(network())
    record = bp.Record(loss)
    for value in range(16):
        record.step(float(value))
    assert [row["negative_elbo"] for row in record.state.iterates] == [1.5, 5.5, 9.5, 13.5]


def test_a_record_takes_no_random_numbers():
    with_record, without = (bp.objective(network()) for _ in range(2))
    states = []
    for loss, record in ((with_record, bp.Record(with_record)), (without, None)):
        torch.manual_seed(5)
        for _ in range(3):
            value = loss(X, Y)
            if record is not None:
                record.step()
                record.step(value + 1.0)
        if record is not None:
            record.epoch()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_loss_that_was_divided_by_the_number_of_data_is_told():
    loss = bp.objective(network())
    record = bp.Record(loss)
    value = loss(X, Y) / SIZE
    with pytest.raises(ValueError, match="the loss divided by the number of data: leave it out"):
        record.step(value.item())
    record.step(value.item() * SIZE)
    assert record.state.iterates[0]["negative_elbo"] == pytest.approx(float(value.detach()) * SIZE, rel=1e-5)


def test_the_stopping_rule_looks_at_a_loop_after_the_weight_has_risen():
    loss, rule = bp.objective(network(bp.Gaussian(1.0)), "map"), bp.until_converged()
    record, noise = bp.Record(loss), np.random.default_rng(0)
    said = []
    for step in range(400):
        late = step >= 200
        for value in 100.0 + noise.normal(size=1) + 1e4 * (1 - late):  # a fall that is no part of what is judged
            loss.latest = None
            record.step(float(value))
            if not late:
                record.kl_weight = 0.5  # as if it were still rising
        if step % 20 == 19:
            record.epoch()
            said.append(rule(record.state))
    assert any(said) and not any(said[:15])


def test_an_average_needs_a_rule_where_nobody_knows_the_length():
    loss = bp.objective(network())
    with pytest.raises(ValueError, match="start=0.5 is a share of the steps, .* give a rule"):
        bp.Record(loss, rules=[bp.IterateAverage(0.5)])
    record = bp.Record(loss, rules=[bp.IterateAverage(lambda state: state.epoch >= 1)])
    for _ in range(4):
        loss(X, Y)
        record.step()
        record.epoch()
    record.end()
    assert bp.Fit.of(loss, (X, Y), record).summary()["notes"][0].endswith("average of the last 3 steps")


def test_a_loop_s_trace_is_written_and_shown_while_it_runs(tmp_path, capsys):
    from bayesprune.commands.showing import show_run

    loss = bp.objective(network())
    record = bp.Record(loss, callbacks=[bp.WriteTrace(tmp_path)])
    loss(X, Y)
    record.step()
    record.epoch()
    show_run(tmp_path)
    said = capsys.readouterr().out
    assert "epoch 1; " in said and " of 0" not in said and "left" not in said
    assert math.isnan(read_progress(tmp_path).seconds_left)


def test_scores_on_held_out_data_are_recorded_under_their_names():
    loss = bp.objective(network())
    record = bp.Record(loss)
    for nll in (0.7, 0.6):
        loss(X, Y)
        record.step()
        record.epoch(nll=nll, accuracy=0.5)
    found = bp.Fit.of(loss, (X, Y), record)
    assert found.trace["validation_nll"].values.tolist() == [[0.7, 0.6]]
    loss(X, Y)
    record.step()
    with pytest.raises(ValueError, match="scores rmse after nll, accuracy: give the same ones"):
        record.epoch(rmse=1.0)


def test_several_loops_are_restarts_and_their_convergence_is_judged_together():
    found = fit_by("torch", network(), (X, Y), epochs=30, batch_size=20, restarts=2)
    assert len(found.restarts) == 2 and found.trace.sizes["restart"] == 2
    assert found.summary()["seeds"] == [0, 1] and found.settings["seed"] is None
    verdict = bp.convergence(found)
    assert verdict.table.sizes["window"] == 4 and "recorded" not in verdict.reason
    assert bp.agreement(found, X, draws=4).verdict


# -- what it is and is not -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", LOOPS)
def test_the_fit_is_a_copy_in_evaluation_mode_and_the_objective_trains_on(way):
    loss, record = trained_by(way, normalised(), (X, Y), "meanfield", epochs=2, batch_size=20)
    loss.train()
    buffers = {name: value.clone() for name, value in loss.named_buffers()}
    for given in (record, None):
        found = bp.Fit.of(loss, (X, Y), given)
        assert not any(module.training for module in (*found.model.modules(), *found.guide.modules()))
        assert found.guide.model is found.model
    assert all(module.training for module in loss.modules())
    assert all(torch.equal(value, buffers[name]) for name, value in loss.named_buffers())
    before, rows = found.predict(X, draws=3).mean, found.trace.sizes["epoch"]
    optimizer = torch.optim.Adam(loss.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss(X, Y).backward()
        optimizer.step()
        record.step()
    record.epoch()
    assert torch.equal(before, found.predict(X, draws=3).mean) and found.trace.sizes["epoch"] == rows
    after = bp.Fit.of(loss, (X, Y), record)
    assert not torch.equal(before, after.predict(X, draws=3).mean)


def test_statistics_of_batch_normalisation_belong_to_each_draw():
    loss, _ = trained_by("torch", normalised(), (X, Y), "meanfield", epochs=2, batch_size=20)
    found = bp.Fit.of(loss, (X, Y))
    assert found.inputs is not None and found.inputs.shape == X.shape
    assert found.predict(X, draws=2).statistics == "each draw"
    assert bp.Fit.of(bp.objective(network()), (X, Y)).inputs is None


def test_layers_held_in_evaluation_mode_stay_known():
    bnn = normalised()
    bnn.network[1].eval()
    found = bp.Fit.of(bp.objective(bnn), (X, Y))
    assert found.inputs is None  # nothing tracks


def test_without_a_record_convergence_cannot_tell_and_says_why(unrecorded):
    found = bp.convergence(unrecorded)
    assert found.verdict == "cannot tell" and "not recorded: make record = bp.Record(loss)" in found.reason
    assert "recorded" not in bp.convergence(fit_by("torch", network(), (X, Y), epochs=2)).reason


def test_what_nobody_told_is_none_and_nothing_is_invented(unrecorded, made):
    unknown = (
        "steps",
        "epochs",
        "batch_size",
        "learning_rate",
        "optimizer",
        "schedule",
        "seed",
        "seconds",
        "kl_warmup",
    )
    summary = unrecorded.summary()
    assert {summary[name] for name in unknown} == {None} and summary["own_loop"] is True
    known = made.summary()
    assert (known["steps"], known["epochs"]) == (12, 4) and known["seconds"] > 0.0 and known["tempered"] is False
    assert known["batch_size"] is None and known["schedule"] is None
    json.dumps(summary, allow_nan=False)


def test_a_loop_of_unknown_length_is_told_no_number_of_steps():
    found = fit_by("svi", network(bp.SpikeAndSlab(0.4)), (X, torch.randint(2, (SIZE,))), steps=3, recorded=False)
    assert "steps=" not in " ".join(found.summary()["notes"])


def test_the_row_without_a_record_is_the_objective_on_the_data():
    loss, _ = trained_by("torch", network(bp.Gaussian(0.7)), (X, Y), "map", epochs=3)
    found = bp.Fit.of(loss, (X, Y))
    expected = loss.terms(X, Y)  # of points: no draw
    assert found.summary()["kl"] == pytest.approx(float(expected.kl), rel=1e-5)
    assert found.summary()["expected_log_likelihood"] == pytest.approx(float(expected.log_likelihood), rel=1e-5)


def test_a_loop_s_fit_is_shown_pruned_saved_and_fitted_on(either, tmp_path):
    found = either
    rows = bp.layer_table(found).rows
    assert rows[0]["kl"] is not None and "0.weight" in str(bp.layer_table(found))
    included = float((found.inclusion_probabilities()["0.weight"] > 0.6).mean())
    assert bp.prune(found, min_inclusion=0.6).report.sparsity == pytest.approx(1.0 - included)
    assert bp.prune(found, sparsity=0.5).report.sparsity == pytest.approx(0.5)
    assert "0.weight.z" in bp.to_arviz(found, draws=10)["posterior"].data_vars
    again = bp.Fit.load(found.save(tmp_path / "fit"), network())
    assert again.settings == found.settings and again.summary()["kl"] == found.summary()["kl"]
    assert again.predict(X, draws=2).mean.tolist() == found.predict(X, draws=2).mean.tolist()
    xr.testing.assert_identical(again.trace.drop_attrs(), found.trace.drop_attrs())
    warm = bp.fit(network(), (X, Y), start=found, steps=2, device="cpu")
    assert warm.settings["warm_start"] and warm.settings["steps"] == 2


@pytest.mark.parametrize(
    "either", [("torch", True), pytest.param(("svi", False), marks=pytest.mark.slow)], indirect=True, ids=str
)
def test_every_plot_of_a_loop_s_fit_is_drawn(either, tmp_path):
    from bayesprune.commands.showing import write_plots

    files = [file.name for file in write_plots(either, tmp_path, (4,), (X, Y))]
    assert {"pruning_trace.png", "inclusion.png", "scales.png", "calibration.png"} <= set(files)


def test_the_fisher_information_is_there_where_an_event_needs_it():
    horseshoe, gated = (fit_by("svi", network(prior), (X, Y), steps=2) for prior in (bp.Horseshoe(), bp.SpikeAndSlab()))
    assert horseshoe.restarts[0].fisher["0.weight"].shape == (5, 4) and gated.restarts[0].fisher is None


def test_a_loader_gives_the_data_too():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 16, shuffle=True)
    loss, record = trained_by("torch", network(), (X, Y), epochs=2)
    state = torch.get_rng_state()
    found = bp.Fit.of(loss, loader, record)
    assert torch.equal(state, torch.get_rng_state())
    assert found.settings["data_sketch"] is None and found.examples is None and found.score(X, Y)["nll"] > 0


# -- what is refused -------------------------------------------------------------------------------------------


def test_a_guide_of_another_kind_is_refused_with_what_can_be_used():
    bnn = network(bp.Gaussian(1.0))
    auto, own = AutoNormal(bnn), nn.Module()
    own.model = bnn
    for given in (auto, SVI(bnn, auto, pyro.optim.Adam({}), Trace_ELBO()), Objective(bnn, own)):
        with pytest.raises(ValueError, match=r"not \w+: a guide of another kind, .* train loss.guide in its place"):
            bp.Fit.of(given, (X, Y))


def test_gates_of_units_are_refused():
    bnn = network(gates=bp.UnitGates(), example_input=X[:1])
    with pytest.raises(ValueError, match="a part of the model is trained by the rule Gating.*use fit"):
        bp.Fit.of(bp.objective(bnn), (X, Y))


def test_a_loop_that_diverged_is_refused():
    loss = bp.objective(network())
    with torch.no_grad():
        next(p for p in loss.guide.parameters()).view(-1)[0] = math.nan
    with pytest.raises(ValueError, match=r"guide\..* holds NaN or infinity: train again with a smaller"):
        bp.Fit.of(loss, (X, Y))


def test_objectives_that_do_not_go_together_are_refused():
    one, other = bp.objective(network()), bp.objective(network(bp.Gaussian(1.0)))
    same = bp.objective(network())
    assert len(bp.Fit.of([one, same], (X, Y)).restarts) == 2
    for wrong, match in (([one, other], "these differ in priors"), ([one, one], "given twice"), ([], "at least")):
        with pytest.raises(ValueError, match=match):
            bp.Fit.of(wrong, (X, Y))


def test_records_of_other_objectives_are_refused():
    one, other = bp.objective(network()), bp.objective(network())
    for wrong in (bp.Record(other), [bp.Record(one), bp.Record(other)]):
        with pytest.raises(ValueError, match="each has to be of its objective"):
            bp.Fit.of(one, (X, Y), wrong)
    with pytest.raises(ValueError, match="record= takes bp.Record"):
        bp.Fit.of(one, (X, Y), "record")


def test_data_of_another_size_are_refused():
    with pytest.raises(ValueError, match="data_size=60, but the data have 59"):
        bp.Fit.of(bp.objective(network()), (X[:-1], Y[:-1]))


def test_a_record_says_what_it_takes():
    loss = bp.objective(network())
    with pytest.raises(ValueError, match="Record takes what bp.objective"):
        bp.Record(network())
    with pytest.raises(ValueError, match="leave it out for an optimizer of Pyro's"):
        bp.Record(loss, pyro.optim.Adam({}))
    record = bp.Record(loss)
    with pytest.raises(ValueError, match="no loss to record"):
        record.step()
    with pytest.raises(ValueError, match="an epoch has no steps"):
        record.epoch()
    loss(X, Y)
    record.step()
    with pytest.raises(ValueError, match="no loss to record"):
        record.step()  # the same evaluation is not recorded twice
    assert record.state.step == 1 and np.isfinite(record.state.iterates[0]["negative_elbo"])
