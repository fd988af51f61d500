"""Statistics of batch normalisation belong to a draw: predictions against plain copies of the network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import bayesprune as bp
from bayesprune.inference.data.batch_normalisation import reestimate_statistics, statistics_at, tracked_layers
from bayesprune.inference.data.batches import Batches
from bayesprune.inference.data.kept_inputs import INPUTS, KeptInputs, evenly_spaced, inputs_of
from bayesprune.inference.guides.seeded import seeded
from bayesprune.inference.posterior.shrinkage import diagonal_fisher
from bayesprune.inference.predictions.predictive import outputs_of_draws
from bayesprune.inference.predictions.validation_scores import validation_scores
from bayesprune.inference.training import checkpoint
from bayesprune.models.networks.outputs import outputs_at

SIZE = 90
torch.manual_seed(7)
X = 1.0 + torch.randn(SIZE, 1, 6, 6, dtype=torch.float64)
Y = (X.mean(dim=(1, 2, 3)) > 1.0).long()
NEW = 1.0 + torch.randn(20, 1, 6, 6, dtype=torch.float64)
HOW = {"epochs": 2, "batch_size": 30, "device": "cpu", "precision": "float64", "learning_rate": 0.02}


class Net(nn.Module):
    """Two convolutions with batch normalisation, dropout, and a layer that is not used."""

    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.second, self.norm2 = nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(12, 2)
        self.unused = nn.BatchNorm1d(5)

    def forward(self, x):
        x = torch.relu(self.norm1(self.first(x)))
        x = torch.relu(self.norm2(self.second(x)))
        return self.last(self.drop(x).flatten(1))


def model(prior=None, gates=None):
    torch.manual_seed(1)
    priors = {} if gates else {"first.weight": prior or bp.Gaussian(2.0), "second.weight": prior or bp.Gaussian(2.0)}
    return bp.BayesianNetwork(Net(), priors, None, SIZE, gates, X[:1].float())


@pytest.fixture(scope="module")
def fitted():
    return bp.fit(model(), (X, Y), **HOW)


def plain_predictions(fit, x, data, draws, reestimated=True, restart=0):
    """Each draw's network as a plain copy with its weights loaded."""
    one, found = fit.restarts[restart], []
    with torch.no_grad(), seeded(one.guide, one.seed):
        for _ in range(draws):
            weights = one.model.weights_at(one.guide.sample())
            network = copy.deepcopy(one.model.network)
            for name, value in weights.items():
                network.get_parameter(name).copy_(value)
            if reestimated:
                reestimate_statistics(network, data)
            found.append(network.eval()(x).softmax(dim=1))
    return torch.stack(found)


def equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def apart(found, other, by=1e-3):
    assert float((found - other).abs().max()) > by


def test_a_draw_predicts_as_a_plain_network_with_its_weights_after_reestimation(fitted):
    expected = plain_predictions(fitted, NEW, (X, Y), 4)
    found = fitted.predict(NEW, draws=4, batch_size=7)
    equal(found.draws, expected)
    assert found.statistics == "each draw"
    # Control: the running statistics are what they were, and they give something else.
    running = fitted.predict(NEW, draws=4, statistics="running")
    equal(running.draws, plain_predictions(fitted, NEW, None, 4, reestimated=False))
    assert running.statistics == "running"
    apart(found.draws, running.draws, by=0.05)


def test_gates_of_units_are_in_the_weights_whose_statistics_are_taken():
    gating = bp.Gating(step=1e-12, remove=None)  # all units stay
    fit = bp.fit(model(gates=bp.UnitGates(kappa=1e-3)), (X, Y), **HOW, rules=[gating])
    with torch.no_grad():
        fit.guide.gates.theta.fill_(0.6)
    expected = plain_predictions(fit, NEW, (X, Y), 3)
    equal(fit.predict(NEW, draws=3).draws, expected)
    one = fit.restarts[0]
    with torch.no_grad(), seeded(one.guide, one.seed):  # control: open gates have other statistics
        values = one.guide.sample()
        weights, ungated = one.model.weights_at(values), one.model.ungated_weights_at(values)
    wrong = outputs_at(one.model.network, weights, NEW, statistics=statistics_at(one.model.network, ungated, X))
    apart(wrong.softmax(1), expected[0])


def test_score_and_density_are_of_these_predictions(fitted):
    y = (NEW.mean(dim=(1, 2, 3)) > 1.0).long()
    mean = plain_predictions(fitted, NEW, (X, Y), 5).mean(0)
    found = fitted.score(NEW, y, draws=5)
    assert found["nll"] == pytest.approx(float(-mean[torch.arange(20), y].log().mean()), rel=1e-12)
    assert found["nll"] == fitted.negative_log_likelihood(NEW, y, draws=5)
    assert found["accuracy"] == pytest.approx(float((mean.argmax(1) == y).double().mean()))
    assert abs(fitted.score(NEW, y, draws=5, statistics="running")["nll"] - found["nll"]) > 1e-3


def test_a_score_is_one_pass_over_the_draws(fitted):
    sizes = []
    handle = fitted.model.network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    fitted.score(NEW, torch.zeros(20).long(), draws=3)
    handle.remove()
    assert sizes == [SIZE, 20] * 3  # the training inputs, then the new ones


def test_the_model_and_the_random_state_are_left_as_they_were(fitted):
    network = fitted.model.network
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    random = torch.get_rng_state()
    fitted.predict(NEW, draws=2)
    fitted.score(NEW, torch.zeros(20).long(), draws=2, statistics="centre")
    network.train()
    statistics_at(network, {"first.weight": torch.zeros_like(network.first.weight)}, X)
    outputs_at(network, {}, NEW)
    assert network.training
    network.eval()
    after = network.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("which", [None, "centre"])
def test_one_example_has_no_statistics_and_the_running_ones_are_named(which):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    x, y = torch.randn(40, 6), torch.arange(40) % 2
    fit = bp.fit(bp.BayesianNetwork(network, {"0.weight": bp.Gaussian()}, data_size=40), (x, y), steps=5, device="cpu")
    running = fit.predict(x, draws=2, statistics="running")
    one, two = (fit.predict(x, draws=2, data=(x[:n], y[:n]), statistics=which) for n in (1, 2))
    assert one.statistics == "running" and torch.equal(one.mean, running.mean)
    assert two.statistics == (which or "each draw") and not torch.equal(two.mean, running.mean)


def test_at_the_centre_statistics_are_estimated_once(fitted):
    one = fitted.restarts[0]
    centre = copy.deepcopy(one.model.network)
    with torch.no_grad():
        for name, value in one.model.weights_at(one.guide.means()).items():
            centre.get_parameter(name).copy_(value)
    reestimate_statistics(centre, (X, Y))
    found = fitted.predict(NEW, draws=3, statistics="centre")
    own = copy.deepcopy(fitted)
    own.model.network.load_state_dict({**own.model.network.state_dict(), **dict(centre.named_buffers())})
    equal(found.draws, own.predict(NEW, draws=3, statistics="running").draws)
    assert found.statistics == "centre"
    apart(found.draws, fitted.predict(NEW, draws=3).draws)


@pytest.mark.parametrize("how", ["data", "load", "keep", "loader"])
def test_a_loaded_fit_has_running_statistics_until_it_is_given_the_data(fitted, tmp_path, how):
    fitted.save(tmp_path / "fit")
    loaded = bp.Fit.load(tmp_path / "fit", model=model())
    bare = loaded.predict(NEW, draws=2)
    assert bare.statistics == "running" and "running" in loaded.summary()["batch_normalisation"]
    equal(bare.draws, fitted.predict(NEW, draws=2, statistics="running").draws)
    data = (X, Y) if how != "loader" else DataLoader(TensorDataset(X, Y), SIZE)
    if how == "load":
        loaded = bp.Fit.load(tmp_path / "fit", model=model(), data=data)
    elif how == "keep":
        assert loaded.keep_inputs(X) is loaded
    found = loaded.predict(NEW, draws=2, data=data if how in ("data", "loader") else None)
    assert found.statistics == "each draw"
    equal(found.draws, fitted.predict(NEW, draws=2).draws)
    assert (loaded.inputs is None) == (how in ("data", "loader"))


def test_what_cannot_be_had_is_told(fitted, tmp_path):
    fitted.save(tmp_path / "fit")
    loaded = bp.Fit.load(tmp_path / "fit", model=model())
    with pytest.raises(ValueError, match="statistics='centre' needs training inputs.*pass data="):
        loaded.predict(NEW, statistics="centre")
    with pytest.raises(ValueError, match="statistics= takes 'each draw', 'centre' or 'running', not 'batch'"):
        fitted.score(NEW, torch.zeros(20), statistics="batch")
    with pytest.raises(ValueError, match="does not take inputs of shape"):
        fitted.predict(NEW, data=(X[:, :, :1], Y))


@pytest.mark.parametrize("build", ["none", "held", "untracked"])
def test_without_tracked_statistics_nothing_is_kept_and_draws_are_what_they_were(build, tmp_path):
    layer = {
        "none": nn.Identity(),
        "held": nn.BatchNorm1d(6),
        "untracked": nn.BatchNorm1d(6, track_running_stats=False),
    }
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(4, 6), layer[build], nn.ReLU(), nn.Linear(6, 2))
    if build == "held":
        network[1].eval()
    bnn = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian()}, data_size=SIZE)
    x = X.flatten(1)[:, :4]
    fit = bp.fit(bnn, (x, Y), **HOW)
    assert fit.inputs is None and fit.summary()["batch_normalisation"] is None
    assert fit.keep_inputs((x, Y)).inputs is None

    class Untouchable:
        def __iter__(self):
            raise AssertionError("the data were read")

        __len__ = __iter__

    found = fit.predict(x, draws=3, data=Untouchable())
    assert found.statistics is None
    one, expected = fit.restarts[0], []
    with torch.no_grad(), seeded(one.guide, one.seed):  # the loop that there was
        for _ in range(3):
            weights = one.model.weights_at(one.guide.sample())
            parts = [torch.func.functional_call(one.model.network, weights, (part,)) for part in x.split(1024)]
            expected.append(torch.cat(parts).softmax(dim=1))
    assert torch.equal(found.draws, torch.stack(expected))


def test_a_function_gets_the_outputs_of_every_draw(fitted):
    logits = torch.stack(outputs_of_draws(fitted, lambda outputs: outputs, NEW, draws=3))
    equal(logits.softmax(dim=2), fitted.predict(NEW, draws=3).draws)


def test_restarts_have_their_own_statistics():
    fit = bp.fit(model(), (X, Y), **HOW, restarts=2)
    for restart in (0, 1):
        expected = plain_predictions(fit, NEW, (X, Y), 2, restart=restart)
        equal(fit.predict(NEW, draws=2, restart=restart).draws, expected)


def test_weights_that_are_not_finite_predict_nan_and_are_not_refused(fitted):
    broken = copy.deepcopy(fitted)
    with torch.no_grad():
        broken.guide.families[0].location.fill_(float("inf"))
    assert bool(broken.predict(NEW, draws=2).mean.isnan().all())


# ------------------------------------------------------------------------------------------------ who else asks


def test_validation_scores_are_of_the_centre_with_its_own_statistics(fitted):
    fit = bp.fit(model(), (X, Y), validation=(NEW, torch.arange(20) % 2), **HOW)
    one = fit.restarts[0]
    weights = one.model.weights_at(one.guide.means())
    y = torch.arange(20) % 2
    own = outputs_at(one.model.network, weights, NEW, statistics=statistics_at(one.model.network, weights, X))
    expected = float(nn.functional.cross_entropy(own, y))
    assert float(fit.trace.validation_nll[0, -1]) == pytest.approx(expected, rel=1e-10)
    running = float(nn.functional.cross_entropy(outputs_at(one.model.network, weights, NEW), y))
    assert abs(expected - running) > 1e-3
    objective = bp.objective(one.model, one.guide)
    assert validation_scores(objective, NEW, y)["nll"] == pytest.approx(running, rel=1e-10)


def test_validation_during_training_changes_nothing_of_the_fit(fitted):
    other = bp.fit(model(), (X, Y), validation=(NEW, torch.arange(20) % 2), **HOW)
    for name, value in fitted.guide.state_dict().items():
        assert torch.equal(value, other.guide.state_dict()[name])
    for name, value in fitted.model.network.state_dict().items():
        assert torch.equal(value, other.model.network.state_dict()[name])


def test_prune_without_data_takes_the_inputs_that_the_fit_keeps(fitted, tmp_path):
    given, kept = (bp.prune(fitted, sparsity=0.5, data=data) for data in ((X, Y), None))
    assert kept.report.batch_normalisation == "running statistics of 2 layers estimated again on 90 training inputs"
    assert given.report.batch_normalisation == "running statistics of 2 layers estimated again on training data"
    for name, value in given.network.state_dict().items():
        equal(kept.network.state_dict()[name], value)
    fitted.save(tmp_path / "fit")
    bare = bp.prune(bp.Fit.load(tmp_path / "fit", model=model()), sparsity=0.5)
    assert "those of the fit, before pruning" in bare.report.batch_normalisation
    assert torch.equal(bare.network.norm1.running_mean, fitted.model.network.norm1.running_mean)
    apart(bare.network.norm1.running_mean, kept.network.norm1.running_mean)


def test_the_fisher_information_is_that_of_the_centre_with_its_own_statistics(fitted):
    one, batches = fitted.restarts[0], Batches((X, Y), 30, torch.device("cpu"), torch.float64)
    centre = one.model.weights_at(one.guide.means())
    own = copy.deepcopy(one)
    own.model.network.load_state_dict({**own.model.network.state_dict(), **statistics_at(one.model.network, centre, X)})
    found = diagonal_fisher(one.model, one.guide, batches, inputs=X)
    expected = diagonal_fisher(own.model, own.guide, batches)
    running = diagonal_fisher(one.model, one.guide, batches)
    for name, value in expected.items():
        equal(found[name], value)
        assert float((running[name] / value - 1.0).abs().max()) > 0.01


def test_a_laplace_fit_keeps_its_inputs():
    torch.manual_seed(1)
    network = Net().double().eval()
    fit = bp.laplace_around(network, (X, Y), prior_sd={"*.weight": 1.0})
    equal(fit.predict(NEW, draws=2).draws, plain_predictions(fit, NEW, (X, Y), 2))


# ------------------------------------------------------------------------------------------------ what is kept


def test_kept_rows_are_evenly_spaced_copies():
    x = torch.arange(10.0)[:, None]
    assert evenly_spaced(x, 4)[:, 0].tolist() == [0.0, 3.0, 6.0, 9.0]
    kept = evenly_spaced(x, 100)
    x.zero_()
    assert kept[:, 0].tolist() == list(range(10))
    assert len(evenly_spaced(torch.zeros(5000, 1))) == INPUTS
    assert len(evenly_spaced(torch.zeros(3, 1).expand(3, 2**26), 3)) == 2  # numbers are bounded too


@pytest.mark.parametrize("batch", [1, 7, 32])
def test_of_a_loader_evenly_spaced_examples_of_the_last_whole_pass_are_kept(batch):
    x = torch.arange(100.0)[:, None]
    loader = DataLoader(TensorDataset(x, x), batch)
    kept = KeptInputs(Batches(loader, 1, torch.device("cpu"), torch.float32), nn.BatchNorm1d(1), most=30)
    assert torch.equal(torch.cat([part for part, _ in kept.passing()]), x)
    assert kept.inputs[:, 0].tolist() == list(range(0, 100, 4))
    for _ in kept.passing():
        break  # a pass that has just begun has less to show
    assert kept.inputs[:, 0].tolist() == list(range(0, 100, 4))
    assert inputs_of(loader, most=30)[:, 0].tolist() == list(range(0, 100, 4))


def test_a_loader_is_not_read_more_often_than_it_is_trained_on():
    class Counted(IterableDataset):
        passes = 0

        def __iter__(self):
            Counted.passes += 1
            return iter(zip(X, Y, strict=True))

    fit = bp.fit(model(), DataLoader(Counted(), 30), **{**HOW, "epochs": None, "steps": 6})
    with_norm, Counted.passes = Counted.passes, 0
    assert torch.equal(fit.inputs, X)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    bnn = bp.BayesianNetwork(linear, {"*.weight": bp.Gaussian()}, data_size=SIZE)
    bp.fit(bnn, DataLoader(Counted(), 30), **{**HOW, "epochs": None, "steps": 6})
    assert Counted.passes == with_norm


@pytest.mark.parametrize("kind", ["tensors", "loader"])
def test_an_interrupted_fit_has_the_validation_scores_and_inputs_of_one_that_was_not(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", 1.0)
    monkeypatch.setattr(checkpoint, "LEAST", 0.0)

    class Interrupt(bp.Callback):
        is_resumable = True

        def on_epoch(self, state):
            if state.epoch == 3:
                raise KeyboardInterrupt

    x, y = X.repeat(10, 1, 1, 1) + torch.arange(900.0)[:, None, None, None] / 900, Y.repeat(10)
    data = (x, y) if kind == "tensors" else DataLoader(TensorDataset(x, y), 100, shuffle=True)
    monkeypatch.setattr(KeptInputs.__init__, "__defaults__", (100,))

    def fit(**more):
        torch.manual_seed(1)
        bnn = bp.BayesianNetwork(Net(), {"first.weight": bp.Gaussian(2.0)}, data_size=900)
        how = {**HOW, "epochs": 4, "batch_size": 100}
        return bp.fit(bnn, data, validation=(NEW, torch.arange(20) % 2), execution="plain", **how, **more)

    whole = fit()
    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint=tmp_path / "state", callbacks=[Interrupt()])
    resumed = fit(checkpoint=tmp_path / "state")
    assert resumed.settings["resumed_at_epoch"] == 3
    assert torch.equal(whole.inputs, resumed.inputs) and len(whole.inputs) <= 100
    assert whole.trace.validation_nll.equals(resumed.trace.validation_nll)


def test_batches_of_other_shapes_are_left_out_and_the_fit_goes_through():
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    )
    bnn = bp.BayesianNetwork(network, {"0.weight": bp.Gaussian()}, data_size=SIZE)
    loader = [(X[:30], Y[:30]), (X[30:60, :, :5], Y[30:60]), (X[60:], Y[60:])]
    fit = bp.fit(bnn, loader, **HOW)
    assert torch.equal(fit.inputs, torch.cat([X[:30], X[60:]]))
    assert fit.predict(NEW, draws=2).statistics == "each draw"


def test_layers_that_are_held_are_not_tracked():
    network = Net()
    assert list(tracked_layers(network)) == ["norm1", "norm2", "unused"]
    network.norm1.eval()
    assert list(tracked_layers(network)) == ["norm2", "unused"]
