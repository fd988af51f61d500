from __future__ import annotations

import copy
import math

import pytest
import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from bayesprune.inference.data.batches import Batches
from bayesprune.inference.data.data_units import Moments, moments_of
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.pruning.finetune import finetune
from bayesprune.inference.pruning.prune import prune
from bayesprune.inference.sparsity_path.continuation import sparsity_path
from bayesprune.inference.training.fit import fit
from bayesprune.inference.training.laplace_around import laplace_around
from bayesprune.inference.watching.callbacks import Callback
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.models.likelihoods.counts import Poisson
from bayesprune.models.likelihoods.labels import Categorical
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.likelihoods.real_likelihoods import HeteroscedasticNormal, StudentT
from bayesprune.models.networks.lenet import lenet_300_100
from bayesprune.models.networks.standardisation import UNITS, units_of
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.horseshoe import Horseshoe
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from bayesprune.models.ready_networks import make_ready

SIZE = 90


def raw(dtype=torch.float32):
    """Inputs and targets in units far from 1."""
    torch.manual_seed(0)
    x = torch.randn(SIZE, 4) * torch.tensor([50.0, 0.01, 3.0, 1000.0]) + torch.tensor([7.0, 3.0, -20.0, 5000.0])
    y = 152.0 + 77.0 * torch.tanh((x[:, 0] - 7.0) / 50.0) + 20.0 * torch.randn(SIZE)
    return x.to(dtype), y.to(dtype)


def declared(likelihood=None, prior=None, width=6, outputs=1):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, outputs))
    return BayesianNetwork(network, {"*.weight": prior or Gaussian()}, likelihood or Normal(), SIZE)


class Losses(Callback):
    """The loss of every step."""

    def __init__(self):
        self.found = []

    def on_step(self, state):
        self.found.append(float(state.terms.loss.detach()))


HOW = {"steps": 40, "batch_size": 30, "device": "cpu", "learning_rate": 0.01, "execution": "plain"}


def by_hand(x, y):
    """Data standardised by a formula, and its numbers."""
    mean, sd = x.mean(dim=0), x.std(dim=0, correction=0)
    shift, unit = y.mean(), y.std(correction=0)
    return (x - mean) / sd, (y - shift) / unit, shift, unit


@pytest.mark.parametrize(
    ("execution", "likelihood"),
    [
        *(("plain", likelihood) for likelihood in (Normal, StudentT, HeteroscedasticNormal)),
        ("fused", Normal),
        *(
            pytest.param("fused", likelihood, marks=pytest.mark.slow)
            for likelihood in (StudentT, HeteroscedasticNormal)
        ),
    ],
)
def test_a_fit_inside_units_is_the_fit_of_data_standardised_by_hand(likelihood, execution):
    x, y = raw(torch.float64)
    z, t, shift, unit = by_hand(x, y)
    runs = {}
    for name, data, standardise in (("inside", (x, y), None), ("by hand", (z, t), False), ("not", (x, y), False)):
        watch = Losses()
        model = declared(likelihood(), outputs=likelihood.outputs_for(1))
        if name == "by hand" and isinstance(model.likelihood, StudentT):
            model.likelihood.begin_noise(1.0)  # with sd 1, where `inside` begins
        how = HOW | {"execution": execution, "compiled": False if execution == "fused" else None}
        found = fit(model, data, precision="float64", standardise=standardise, callbacks=[watch], **how)
        runs[name] = found, watch.found
    constant = SIZE * math.log(unit)
    inside, hand, without = (torch.tensor(runs[name][1], dtype=torch.float64) for name in ("inside", "by hand", "not"))
    torch.testing.assert_close(inside - constant, hand, rtol=1e-9, atol=1e-7)
    assert not torch.allclose(without - constant, hand, rtol=1e-2)
    predicted, wanted = runs["inside"][0].predict(x).draws, runs["by hand"][0].predict(z).draws
    torch.testing.assert_close(predicted, shift + unit * wanted, rtol=1e-9, atol=1e-7)
    assert not torch.allclose(predicted, wanted, rtol=1e-2)
    scores, those = runs["inside"][0].score(x, y), runs["by hand"][0].score(z, t)
    assert scores["rmse"] == pytest.approx(float(unit) * those["rmse"], rel=1e-9)
    assert scores["nll"] == pytest.approx(those["nll"] + math.log(unit), rel=1e-9)
    assert scores["coverage_90"] == those["coverage_90"]


@pytest.mark.parametrize("kind", ["loader", "data set", "several batches"])
def test_moments_are_those_of_all_data_however_they_come(kind):
    x, y = raw()
    data = TensorDataset(x, y)
    loader, batches = DataLoader(data, 7, shuffle=True), list(DataLoader(data, 8))
    given = {"loader": loader, "data set": data, "several batches": batches}
    state = torch.get_rng_state()
    inputs, targets, examples = moments_of(Batches(given[kind], 16, torch.device("cpu"), torch.float32), None)
    assert torch.equal(state, torch.get_rng_state()) and len(examples[0]) == SIZE
    torch.testing.assert_close(inputs.mean, x.double().mean(dim=0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inputs.sd, x.double().std(dim=0, correction=0), rtol=1e-10, atol=1e-12)
    assert float(targets.sd) == pytest.approx(float(y.double().std(correction=0)), rel=1e-10)


def test_features_of_images_are_channels_and_constant_ones_keep_their_place():
    images = torch.randn(20, 3, 5, 5) * torch.tensor([1.0, 20.0, 0.0])[:, None, None] + torch.tensor(
        [0.0, 5.0, 300.0]
    ).reshape(3, 1, 1)
    found = Moments.of(images, 1)
    assert found.mean.shape == (3,)
    torch.testing.assert_close(found.sd[:2], images.double().transpose(0, 1).flatten(1).std(1, correction=0)[:2])
    mean, sd = found.units(torch.float32)
    assert (float(mean[2]), float(sd[2])) == (0.0, 300.0)
    assert Moments.of(torch.randn(5000, 3), None).units(torch.float32) is None  # standardised before
    ones = torch.cat([torch.full((50, 1), 1.0), 9.0 * torch.randn(50, 1)], dim=1)
    mean, sd = Moments.of(ones, None).units(torch.float32)
    assert (float(mean[0]), float(sd[0])) == (0.0, 1.0)


def test_whether_it_standardises_goes_by_the_likelihood_and_by_what_is_asked():
    x, y = raw()
    done = fit(declared(), (x, y), **HOW).settings["standardised"]
    assert (done["inputs"], done["targets"]) == (True, True)
    assert done["noise"] == pytest.approx(float(y.std(correction=0)), rel=1e-5)
    for model, data, how in (
        (declared(), (x, y), {"standardise": False}),
        (declared(Normal(20.0)), (x, y), {}),  # a noise that is given is in the units of the declaration
        (declared(Categorical(), outputs=2), (x, (y > 150).long()), {}),
        (declared(Poisson()), (x, y.round().clamp_min(0)), {}),
    ):
        found = fit(model, data, **{**HOW, "steps": 1}, **how)
        assert found.settings["standardised"]["inputs"] is found.settings["standardised"]["targets"] is False
        assert not units_of(found.model.network)
    found = fit(declared(Categorical(), outputs=2), (x, (y > 150).long()), standardise=True, **HOW)
    assert set(units_of(found.model.network)) == set(UNITS[:2])
    with pytest.raises(ValueError, match="standardise= takes True, False, 'noise' or None, not 'yes'"):
        fit(declared(), (x, y), standardise="yes", **HOW)


def test_the_model_that_was_handed_in_stays_as_it_was():
    model = declared()
    before, kind = copy.deepcopy(model.state_dict()), type(model.network)
    fit(model, raw(), **HOW)
    assert type(model.network) is kind and model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_trained_network_keeps_its_function():
    x, y = raw()
    model = declared()
    with torch.no_grad():  # a network that has learned these data in their own units
        model.network[0].weight.zero_()
        model.network[0].weight[0, 0] = 1 / 50
        model.network[0].bias.zero_()
        model.network[0].bias[0] = -7 / 50
        model.network[2].weight.fill_(0.0)
        model.network[2].weight[0, 0], model.network[2].bias[0] = 77.0, 152.0
    found = fit(model, (x, y), **{**HOW, "steps": 1, "learning_rate": 1e-9})
    assert "trained already" in found.settings["standardised"]["reason"] and not units_of(found.model.network)
    assert found.settings["standardised"]["noise"] == pytest.approx((y - model.network(x)[:, 0]).std().item(), rel=0.1)
    torch.testing.assert_close(found.guide.means()["2.weight"], model.network[2].weight)
    with torch.no_grad():
        model.network[2].weight.zero_()  # the control: as good as the mean, and no better
    assert fit(model, (x, y), **{**HOW, "steps": 1}).settings["standardised"]["targets"] is True


def test_laplace_around_leaves_the_network_alone():
    x, y = raw()
    found = laplace_around(declared(Normal(20.0)), (x, y))
    assert not units_of(found.model.network)


class Stream(IterableDataset):
    """Data that come once."""

    def __iter__(self):
        yield from zip(*raw(), strict=True)


def test_data_that_can_be_read_only_once_are_left_and_a_note_says_so():
    found = fit(declared(), Stream(), **HOW)
    assert found.settings["standardised"]["targets"] is False
    assert any("read only once" in note for note in found.summary()["notes"])
    with pytest.raises(ValueError, match="standardise=True cannot be done: the data can be read only once"):
        fit(declared(), Stream(), standardise=True, **HOW)
    assert not any("standardised" in note for note in fit(declared(), raw(), **HOW).summary()["notes"])


class Looked(nn.Module):
    """A network that takes a number apart from the others for a place in a table."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Parameter(torch.randn(5, 3)), nn.Linear(3, 1)

    def forward(self, x):
        return self.last(self.table[x[:, 0].long()] + torch.log(x[:, 1:2]))


def test_inputs_that_the_network_does_not_take_otherwise_are_left_alone():
    x = torch.stack([torch.arange(40) % 5, torch.rand(40) + 3.0], dim=1)
    y = 100.0 + 30.0 * torch.randn(40)
    bnn = BayesianNetwork(Looked(), {"last.weight": Gaussian()}, Normal(), 40)
    found = fit(bnn, (x, y), **HOW)
    assert set(units_of(found.model.network)) == set(UNITS[2:])
    assert any("inputs are not standardised" in note for note in found.summary()["notes"])


@pytest.mark.filterwarnings("ignore:.*units are dead")
@pytest.mark.parametrize("prior", [SpikeAndSlab, Horseshoe])
def test_units_are_saved_loaded_and_pruned_with_the_fit(prior, tmp_path):
    x, y = raw()
    model = declared(prior=prior(), width=20)
    found = fit(model, (x, y), **HOW)
    found.save(tmp_path / "fit")
    again = Fit.load(tmp_path / "fit", model=model)
    assert torch.equal(again.predict(x).draws, found.predict(x).draws) and not units_of(model.network)
    assert again.settings["standardised"] == found.settings["standardised"]
    assert again.score(x, y) == found.score(x, y)
    result = prune(again, sparsity=0.85)
    assert (result.network(x) - y.mean()).mean().abs().item() < 60.0  # outputs of about 152
    small = result.compact()
    torch.testing.assert_close(small.network(x), result.network(x), rtol=1e-4, atol=1e-3)
    tuned = finetune(result, (x, y), 20, learning_rate=0.01)
    error = lambda made: (made.network(x)[:, 0] - y).square().mean().sqrt().item()  # noqa: E731
    assert error(tuned) < error(result)
    refit = fit(BayesianNetwork(result.network, {"*.weight": Gaussian()}, Normal(), SIZE), (x, y), **HOW)
    assert refit.settings["standardised"]["reason"] == "the network came with it"


def test_a_ready_network_is_loaded_by_its_name_with_its_units(tmp_path):
    x, y = raw()
    bnn = BayesianNetwork(make_ready("lenet-300-100", (4,), 1, 0.02), {"*.weight": Gaussian()}, Normal(), SIZE)
    found = fit(bnn, (x, y), **HOW)
    found.save(tmp_path / "fit")
    assert torch.equal(Fit.load(tmp_path / "fit").predict(x).draws, found.predict(x).draws)
    plain = fit(bnn, (x, y), standardise=False, **HOW)
    plain.save(tmp_path / "plain")
    assert not units_of(Fit.load(tmp_path / "plain").model.network)


def test_warm_starts_and_paths_take_the_units_of_the_fit_before(tmp_path):
    x, y = raw()
    first = fit(declared(), (x, y), **HOW)
    other = (x[:60], y[:60] + 5.0)
    model = declared()
    model.data_size = 60
    second = fit(model, other, start=first, **HOW)
    before, after = units_of(first.model.network), units_of(second.model.network)
    assert all(torch.equal(before[name], after[name]) for name in UNITS)
    with pytest.raises(ValueError, match="standardise=False is not what the fit of start= did"):
        fit(declared(), (x, y), start=first, standardise=False, **HOW)
    plain = fit(declared(), (x, y), standardise=False, **HOW)
    assert not units_of(fit(declared(), (x, y), start=plain, **HOW).model.network)
    how = {name: value for name, value in HOW.items() if name != "steps"}
    path = sparsity_path(
        lambda sd: declared(prior=Gaussian(sd)), (x, y), [1.0, 0.5], knob="sd", validation=(x, y), epochs=2, restarts=2,
        folder=tmp_path / "path", prunings=[{"sparsity": 0.5}], **how,
    )  # fmt: skip
    for value in (1.0, 0.5):
        assert set(units_of(path.fit(value).model.network)) == set(UNITS)


class Stopped(Exception):
    """An interruption."""


class Stop(Callback):
    """Interrupts in an epoch."""

    is_resumable = True

    def on_epoch(self, state):
        if state.epoch == 4:
            raise Stopped


@pytest.mark.parametrize("kind", ["tensors", "loader"])
def test_an_interrupted_fit_goes_on_bit_for_bit(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("bayesprune.inference.training.checkpoint.LEAST", 0.0)
    monkeypatch.setattr("bayesprune.inference.training.checkpoint.SHARE", 1e9)
    x, y = raw()
    data = (x, y) if kind == "tensors" else DataLoader(TensorDataset(x, y), 30, shuffle=True)
    whole = fit(declared(), data, **HOW)
    with pytest.raises(Stopped):
        fit(declared(), data, checkpoint=tmp_path / "state", callbacks=[Stop()], **HOW)
    found = fit(declared(), data, checkpoint=tmp_path / "state", **HOW)
    assert found.settings["resumed_at_epoch"] is not None
    assert torch.equal(found.predict(x).draws, whole.predict(x).draws)
    with pytest.raises(ValueError, match="standardise"):
        fit(declared(), data, checkpoint=tmp_path / "state", standardise=False, **HOW)


def test_restarts_share_the_units():
    found = fit(declared(), raw(), restarts=2, **HOW)
    one, two = (units_of(restart.model.network) for restart in found.restarts)
    assert all(torch.equal(one[name], two[name]) for name in UNITS)
    assert not torch.equal(found.predict(raw()[0], restart=0).mean, found.predict(raw()[0], restart=1).mean)


@pytest.mark.parametrize("noise", [0.02, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_noise_reaches_its_optimum_within_2500_steps(noise):
    torch.manual_seed(0)
    x = torch.randn(400, 1)
    y = 1000.0 * (x[:, 0] + noise * torch.randn(400))
    bnn = BayesianNetwork(nn.Linear(1, 1), {"weight": Gaussian()}, Normal(), 400)
    found = fit(bnn, (x, y), steps=2500, device="cpu", execution="plain", kl_warmup=0.6)
    columns = torch.stack([x[:, 0], torch.ones(400)], dim=1)
    residuals = y - (columns @ torch.linalg.lstsq(columns, y[:, None]).solution)[:, 0]
    wanted = float(residuals.square().mean().sqrt())
    assert float(found.model.likelihood.learned_config()["scale"]) == pytest.approx(wanted, rel=0.05)


@pytest.mark.slow
def test_diabetes_in_raw_units_is_predicted_with_honest_intervals():
    found = load_diabetes(scaled=False)
    x, y = torch.tensor(found.data, dtype=torch.float32), torch.tensor(found.target, dtype=torch.float32)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, train = order[:88], order[88:]
    scores = {}
    for standardise in (None, False):
        torch.manual_seed(0)
        network = lenet_300_100(10, 1, (16,))
        bnn = BayesianNetwork(network, {"*.weight": Gaussian()}, Normal(), len(train))
        made = fit(bnn, (x[train], y[train]), steps=2500, kl_warmup=0.6, kl_weight=1.0, standardise=standardise)
        scores[standardise] = made.score(x[test], y[test])
    assert scores[None]["rmse"] < 58.0 and scores[None]["nll"] < 5.6 and 0.85 <= scores[None]["coverage_90"] <= 0.95
    assert scores[False]["nll"] > 10.0  # the control: what it was


@pytest.mark.filterwarnings("ignore:the noise of theta:UserWarning")  # a short fit
def test_units_stay_where_gates_remove_others(tmp_path):
    x, y = raw()
    torch.manual_seed(0)
    network = lenet_300_100(4, 1, (30, 20))
    gates = UnitGates(kappa=0.05)
    bnn = BayesianNetwork(network, {}, Normal(), SIZE, gates=gates, example_input=x[:1])
    found = fit(bnn, (x, y), epochs=150, learning_rate=0.01, batch_size=30, device="cpu")
    assert found.settings["gating"][0]["removals"]
    assert set(units_of(found.model.network)) == set(UNITS)
    assert found.score(x, y)["rmse"] < 45.0
    found.save(tmp_path / "fit")
    again = Fit.load(tmp_path / "fit", model=bnn)
    assert torch.equal(again.predict(x).draws, found.predict(x).draws)
    result = prune(again, min_inclusion=0.5)
    small = result.compact(x[:2])
    assert small.report.parameters_after < small.report.parameters_before
    torch.testing.assert_close(small.network(x), result.network(x), rtol=1e-4, atol=1e-3)


class Own(Normal):
    """A likelihood of one's own."""

    name = "own"


def test_a_likelihood_of_ones_own_is_loaded_with_its_model(tmp_path):
    x, y = raw()
    found = fit(declared(Own()), (x, y), **HOW)
    assert found.settings["standardised"]["targets"] is True
    found.save(tmp_path / "fit")
    again = Fit.load(tmp_path / "fit", model=declared(Own()))
    assert again.score(x, y) == found.score(x, y)
    with pytest.raises(ValueError, match="fitted with the likelihood .*'own'.*but the model has .*'normal'"):
        Fit.load(tmp_path / "fit", model=declared(Normal()))
    ready = make_ready("lenet-300-100", (4,), 1, 0.02)
    found = fit(BayesianNetwork(ready, {"*.weight": Gaussian()}, Own(), SIZE), (x, y), **HOW)
    found.save(tmp_path / "ready")
    with pytest.raises(ValueError, match=r"code of your own \(the likelihood 'own'\), which is not stored"):
        Fit.load(tmp_path / "ready")
