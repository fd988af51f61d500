"""Fit: reproducible, leaves everything of the user's alone, says what is wrong, keeps its trace."""

from __future__ import annotations

import copy
import random

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.objective.latent_gate_estimators import ScoreFunction
from bayesprune.inference.training.fit import fit
from bayesprune.inference.watching.callbacks import Callback
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold
from bayesprune.models.language.latent import Latent
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab

SIZE = 30
torch.manual_seed(11)
X = torch.randn(SIZE, 4)
Y = (X[:, 0] + 0.5 * X[:, 1] > 0).long()


def network(norm=False):
    torch.manual_seed(123)
    layers = [nn.Linear(4, 5), nn.BatchNorm1d(5) if norm else nn.Identity(), nn.Tanh(), nn.Linear(5, 2)]
    return nn.Sequential(*layers)


def model(prior=None, **more):
    return (
        BayesianNetwork(network(**more), {"*.weight": prior or Gaussian()}, data_size=SIZE)
        if not more
        else (BayesianNetwork(network(**more), {"3.weight": prior or Gaussian()}, data_size=SIZE))
    )


def fitted(bnn=None, data=(X, Y), guide="meanfield", **more):
    more = {"steps": 6, "batch_size": 10, "device": "cpu", **more}
    return fit(bnn or model(), data, guide, **more)


def parameters(result, restart=0):
    one = result.restarts[restart]
    return torch.cat([p.detach().flatten() for p in (*one.guide.parameters(), *one.model.parameters())])


@pytest.mark.parametrize("likelihood", [None, Normal()])
def test_a_loader_s_random_numbers_are_left_alone(likelihood):
    """An iterator of a loader takes a number for its workers, and moments of a regression take a pass."""
    y = Y if likelihood is None else X[:, 0]
    network = nn.Linear(4, 2 if likelihood is None else 1)
    bnn = BayesianNetwork(network, {"weight": Gaussian()}, likelihood, data_size=SIZE)
    loader = DataLoader(TensorDataset(X, 3.0 + 5.0 * y if y.is_floating_point() else y), batch_size=10, shuffle=True)
    before = torch.get_rng_state()
    fitted(bnn, loader)
    assert torch.equal(torch.get_rng_state(), before)


# -- reproducible, and leaves things alone -------------------------------------------------------------------


@pytest.mark.parametrize("data", [(X, Y), TensorDataset(X, Y)])
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(data):
    one, same, other = (fitted(data=data, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(parameters(one), parameters(same))
    assert not torch.equal(parameters(one), parameters(other))
    np.testing.assert_array_equal(one.trace["loss"].values, same.trace["loss"].values)


def test_what_was_drawn_before_does_not_matter():
    one = fitted()
    torch.randn(17)
    assert torch.equal(parameters(one), parameters(fitted()))


def test_the_global_random_states_are_left_as_they_were():
    bnn = model(Horseshoe())
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    result = fitted(bnn, restarts=2, validation=(X, Y))
    result.predict(X, draws=3)
    result.inclusion_probabilities(draws=3)
    result.draws(2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1]) and before[2] == random.getstate()
    assert torch.get_default_dtype() == torch.float32


def test_the_users_model_and_network_are_not_touched():
    plain = network(norm=True)
    bnn = BayesianNetwork(plain, {"3.weight": Gaussian()}, data_size=SIZE)
    states = copy.deepcopy(plain.state_dict()), copy.deepcopy(bnn.state_dict())
    modes = [m.training for m in bnn.modules()]
    result = fitted(bnn, precision="float64", learning_rate=0.1)
    for module, before in ((plain, states[0]), (bnn, states[1])):
        after = module.state_dict()
        assert all(torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)
    assert modes == [m.training for m in bnn.modules()]
    assert result.model is not bnn and result.model.network[3].bias.dtype == torch.float64
    assert int(result.model.network[1].num_batches_tracked) == 6
    assert not torch.equal(result.model.network[3].bias.float(), plain[3].bias)


def test_watching_does_not_change_the_fit():
    watched = fitted(validation=(X, Y), callbacks=[Callback()])
    assert torch.equal(parameters(fitted()), parameters(watched))


def test_restarts_start_from_other_weights_and_differ():
    result = fitted(restarts=3, learning_rate=1e-6)
    first, second, third = (parameters(result, number) for number in range(3))
    assert not torch.allclose(first, second, atol=1e-2) and not torch.allclose(second, third, atol=1e-2)
    assert [one.seed for one in result.restarts] == [0, 1, 2]
    assert result.trace.sizes["restart"] == 3
    assert torch.equal(parameters(fitted(learning_rate=1e-6)), first)  # the first is the fit without restarts
    with pytest.raises(ValueError, match="there is no restart 3"):
        result.predict(X, restart=3)


# -- length, data --------------------------------------------------------------------------------------------


def test_epochs_and_steps_are_two_ways_of_saying_how_long():
    by_epochs, by_steps = fitted(epochs=2, steps=None), fitted(steps=6)
    assert torch.equal(parameters(by_epochs), parameters(by_steps))
    assert by_epochs.settings["steps"] == 6 and by_epochs.settings["epochs"] == by_steps.settings["epochs"] == 2
    assert fitted(steps=4).trace.sizes["epoch"] == 2
    for wrong in (
        {"epochs": 2, "steps": 2},
        {"steps": 0},
        {"epochs": 0, "steps": None},
    ):
        with pytest.raises(ValueError, match="epochs|steps must be at least 1, not 0"):
            fitted(**{"steps": 2, **wrong})


def test_a_loader_and_tensors_give_the_same_scale_of_the_objective():
    full = {"batch_size": SIZE, "steps": 1, "kl_warmup": 0.0, "guide": "map", "bnn": model()}
    tensors = fitted(**full)
    parts = DataLoader(TensorDataset(X, Y), 10)
    split = fitted(**{**full, "data": parts, "steps": 3, "learning_rate": 1e-9})
    for part in ("loss", "expected_log_likelihood", "kl"):
        assert float(split.trace[part][0, 0]) == pytest.approx(float(tensors.trace[part][0, 0]), rel=1e-4)
    outputs = model().network(X)
    expected = -float(nn.functional.cross_entropy(outputs, Y, reduction="sum").detach())
    assert float(tensors.trace["expected_log_likelihood"][0, 0]) == pytest.approx(expected, rel=1e-5)


# -- bad input -----------------------------------------------------------------------------------------------


def spoilt():
    x = X.clone()
    x[3, 2] = float("inf")
    return x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": (spoilt(), Y)}, "NaN or infinity in 1 examples, first in example 3"),
        ({"data": (X, Y + 1)}, "labels run from 1 to 2, but the network has 2 outputs"),
        ({"data": (X[:, :3], Y)}, "does not take inputs of shape"),
        ({"data": (X[:9], Y[:9])}, "data_size=30, but the data have 9"),
        ({"guide": "vi"}, "guide 'vi' is unknown"),
        ({"guide": "paired"}, "needs a prior with a gate and a slab"),
        ({"optimizer": "adamw"}, "optimizer 'adamw' is unknown"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"schedule": "linear"}, "schedule 'linear' is unknown"),
        ({"precision": "half"}, "precision 'half' is unknown"),
        ({"kl_warmup": 1.0}, "kl_warmup is a share"),
        ({"kl_warmup": -0.1}, "kl_warmup is a share"),
        ({"device": "gpu"}, "device 'gpu' is not available"),
        ({"particles": 0}, "particles must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"validation": (X, Y + 5)}, "validation.*labels run from 5"),
        ({"validation": (spoilt(), Y)}, "validation.*NaN"),
        ({"validation": (X[:, :2], Y)}, "validation.*does not take inputs"),
        ({"validation": (X, Y[:3])}, "validation"),
    ],
)
def test_bad_input_is_refused_before_the_first_step(arguments, message):
    class Never(Callback):
        def on_step(self, state):
            raise AssertionError("a step was taken")

    with pytest.raises(ValueError, match=message):
        fitted(callbacks=[Never()], **arguments)


def test_a_map_that_does_not_exist_is_refused():
    centred = Hierarchy(lam=dist.HalfCauchy(1.0), weight=lambda lam: dist.Normal(0.0, lam))
    with pytest.raises(ValueError, match="has no MAP"):
        fitted(model(centred), guide="map")


def test_a_loss_that_is_not_finite_names_the_site_and_the_step():
    def poison(site):
        class Poison(Callback):
            def on_step(self, state):
                if state.step == 2:
                    with torch.no_grad():
                        for family in state.objective.guide.families:
                            family.location.fill_(float("nan") if site else 1e17)

        return Poison()

    with pytest.raises(NonFiniteLossError, match="step 3 .*the term of 0.weight"):
        fitted(callbacks=[poison(True)])
    bnn = BayesianNetwork(nn.Linear(4, 1), {"weight": Hierarchy(weight=dist.Cauchy(0.0, 1.0))}, Normal(1e-3), SIZE)
    with pytest.raises(NonFiniteLossError, match="step 3 .*the log-likelihood"):
        fitted(bnn, (X, Y.float()), callbacks=[poison(False)])


# -- callbacks, stopping, warm-up ----------------------------------------------------------------------------


class Recorder(Callback):
    def __init__(self, name, log, stop_at=None):
        self.name, self.log, self.stop_at = name, log, stop_at

    def on_fit_start(self, state):
        self.log.append((self.name, "start", state.step))

    def on_step(self, state):
        self.log.append((self.name, "step", state.step))
        if state.step == self.stop_at:
            state.stop = True

    def on_epoch(self, state):
        assert len(state.history) == state.epoch
        self.log.append((self.name, "epoch", state.epoch))

    def on_fit_end(self, state):
        self.log.append((self.name, "end", state.step))


def test_callbacks_are_called_in_order():
    log = []
    fitted(callbacks=[Recorder("a", log), Recorder("b", log)], steps=4)
    events = [("start", 0), *(("step", n) for n in (1, 2, 3)), ("epoch", 1), ("step", 4), ("epoch", 2), ("end", 4)]
    assert log == [(name, *event) for event in events for name in "ab"]


def test_a_callback_can_stop_a_restart_and_the_trace_is_padded():
    class Once(Callback):
        def on_step(self, state):
            state.stop = state.restart == 0 and state.step == 4

    result = fitted(callbacks=[Once()], steps=9, restarts=2)
    loss = result.trace["loss"]
    assert loss.shape == (2, 3) and np.isnan(loss.values[0, 2]) and np.isfinite(loss.values[1]).all()
    assert np.isfinite(loss.values[0, :2]).all()


def test_a_fit_that_is_stopped_before_its_first_step_is_refused_in_a_sentence():
    class Early(Callback):
        def on_fit_start(self, state):
            state.stop = True

    with pytest.raises(ValueError, match="before the first step"):
        fitted(callbacks=[Early()])


def test_a_stopping_rule_is_asked_after_each_epoch():
    seen = []
    result = fitted(steps=30, stop=lambda state: seen.append(state.step) or state.epoch == 2)
    assert seen == [3, 6] and result.settings["epochs"] == 2


def test_fit_end_is_called_when_a_fit_breaks_off():
    log = []

    class Broken(Callback):
        def on_step(self, state):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fitted(callbacks=[Recorder("a", log), Broken()])
    assert log[-1][1] == "end"


@pytest.mark.parametrize("share", [None, 0.0, 0.3, 0.9])
def test_the_warm_up_of_the_kl_ends_at_exactly_one(share):
    weights = []

    class Look(Callback):
        def on_step(self, state):
            weights.append(state.kl_weight)

    result = fitted(callbacks=[Look()], steps=20, kl_warmup=share, kl_weight=1)
    assert weights == sorted(weights) and weights[-1] == 1.0
    assert (weights[0] == 1.0) == (share == 0.0)
    assert result.settings["tempered"] is False
    assert result.settings["kl_warmup"] == (0.6 if share is None else share)


def test_what_nobody_gave_is_said_to_be_chosen():
    told = fitted(guide="map", kl_warmup=0.0, kl_weight=1.0)
    assert told.settings["chosen"] == [] and told.settings["tempered"] is False
    epochs = []  # the length is chosen before the first step, so that one epoch tells
    left = fitted(guide="map", steps=None, stop=lambda state: epochs.append(state.epochs) or True)
    assert left.settings["chosen"] == ["steps", "kl_weight", "kl_warmup"]
    assert (left.settings["steps"], left.settings["kl_weight"], left.settings["kl_warmup"]) == (2502, 0.1, 0.6)
    assert epochs == [834] and left.settings["tempered"] is True


def test_a_tempered_objective_is_called_so():
    result = fitted(kl_weight=0.5, steps=20)
    assert result.settings["tempered"] is True and float(result.trace["kl_weight"][0, -1]) == 0.5
    assert fitted(steps=20, stop=lambda state: True, kl_warmup=0.9).settings["tempered"] is True


def test_any_tempered_restart_makes_the_fit_tempered():
    stop = lambda state: state.restart == 1  # noqa: E731
    assert fitted(steps=20, restarts=2, kl_warmup=0.9, stop=stop).settings["tempered"] is True


def test_learning_rates_follow_the_schedule_and_spreads_learn_faster():
    rates = []

    class Look(Callback):
        def on_step(self, state):
            rates.append({group["name"]: group["lr"] for group in state.optimizer.param_groups})

    fitted(callbacks=[Look()], steps=4, schedule=lambda progress: 1.0 - progress, learning_rate=0.01)
    assert [r["location"] for r in rates] == pytest.approx([0.01, 0.0075, 0.005, 0.0025])
    assert [r["spread"] / r["location"] for r in rates] == pytest.approx([10.0] * 4)
    assert [r["point estimates"] for r in rates] == [r["location"] for r in rates]


def test_an_optimizer_of_ones_own_gets_every_parameter_once():
    got = []

    def optimizer(groups):
        got.extend(p for group in groups for p in group["params"])
        return torch.optim.SGD(groups, lr=0.01)

    result = fitted(optimizer=optimizer)
    wanted = [*result.guide.parameters(), *(p for p in result.model.parameters() if p.requires_grad)]
    assert sorted(map(id, got)) == sorted(map(id, wanted)) and result.settings["optimizer"] == "custom"


# -- it works ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "guide"),
    [
        (Gaussian(), "map"),
        (HALO(prior_sd=3.0), None),
        (Horseshoe(1.0), None),
        (SpikeAndSlab(0.5), None),
        (SpikeAndSlab(0.5), "meanfield"),
    ],
)
def test_every_ready_prior_learns_an_easy_problem(prior, guide):
    torch.manual_seed(5)
    x = torch.randn(400, 4)
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).long()
    bnn = BayesianNetwork(network(), {"*.weight": prior}, data_size=400)
    result = fitted(bnn, (x, y), guide, steps=300, batch_size=50, learning_rate=0.02)
    likelihood = result.trace["expected_log_likelihood"].values[0]
    assert likelihood[-3:].mean() > likelihood[0] + 50.0
    assert result.score(x, y)["accuracy"] > 0.9


def test_the_score_function_can_be_asked_for():
    result = fitted(model(SpikeAndSlab()), guide=None, gate_estimator=ScoreFunction(2), particles=2)
    assert np.isfinite(result.trace["loss"].values).all()


def test_bfloat16_runs_and_keeps_parameters_in_float32():
    result = fitted(precision="bfloat16")
    assert parameters(result).dtype == torch.float32 and np.isfinite(result.trace["loss"].values).all()


# -- the trace -----------------------------------------------------------------------------------------------


def test_the_trace_has_its_documented_variables_and_shapes():
    result = fitted(model(SpikeAndSlab()), guide=None, steps=9, restarts=2, validation=(X, Y))
    trace = result.trace
    for name in ("loss", "expected_log_likelihood", "kl", "kl_weight", "learning_rate", "seconds", "network_sparsity"):
        assert trace[name].dims == ("restart", "epoch") and trace[name].shape == (2, 3), name
    assert {"validation_accuracy", "validation_nll"} <= set(trace.data_vars)
    assert trace["sparsity"].dims == trace["kl_of"].dims == ("restart", "epoch", "tensor")
    assert list(trace["tensor"].values) == ["0.weight", "3.weight"]
    assert trace["inclusion_histogram"].shape == (2, 3, 2, 20)
    assert trace["inclusion_histogram"].sum("bin").values[0, 0].tolist() == [20, 10]
    assert trace["negative_elbo"].shape == (2, 9) and trace["scales"].dims == ("restart", "iterate", "quantity")
    assert trace["iterate_step"].values[0].tolist() == list(range(1, 10))
    assert trace.attrs["data_size"] == SIZE
    assert list(trace["epoch"].values) == [1, 2, 3]


def test_the_trace_tells_the_truth():
    result = fitted(steps=3, kl_warmup=0.0, kl_weight=1.0)
    row = result.trace.isel(restart=0, epoch=0)
    assert float(row["loss"]) == pytest.approx(float(row["kl"]) - float(row["expected_log_likelihood"]), rel=1e-6)
    assert float(result.trace["negative_elbo"].mean()) == pytest.approx(float(row["loss"]), rel=1e-6)
    total = float(row["kl_of"].sum())
    assert total == pytest.approx(float(row["kl"]), rel=0.05)  # of the last step, not the mean of the epoch


def test_sparsity_in_the_trace_is_that_of_the_guide_at_the_end():
    prior = Hierarchy(
        z=Latent(dist.Bernoulli(0.5), init=0.2), s=dist.Normal(0.0, 1.0), weight=lambda z, s: z * s,
        included=relative_threshold(),
    )  # fmt: skip
    gated = SpikeAndSlab(0.5, initial_inclusion=0.4)
    result = fitted(model(gated), guide=None, steps=1, learning_rate=1e-9)
    assert float(result.trace["network_sparsity"][0, -1]) == 1.0
    open_gates = fitted(model(SpikeAndSlab(0.5)), guide=None, steps=1, learning_rate=1e-9)
    assert float(open_gates.trace["network_sparsity"][0, -1]) == 0.0
    relative = fitted(model(prior), guide=None, steps=1, learning_rate=1e-9)
    weights = relative.model.weights_at(relative.guide.means())
    small = sum(int((w.abs() <= 0.1 * w.square().mean().sqrt()).sum()) for w in weights.values())
    # No weight is a zero under this event: what is small has a word of its own.
    assert float(relative.trace["network_near_zero"][0, -1]) == pytest.approx(small / 30) and small > 0
    assert np.isnan(result.trace["network_near_zero"]).all() and np.isnan(result.trace["near_zero"]).all()
