"""Fits with gates on units: what theta does, what leaves when, and that everything asked afterwards agrees with it."""

from __future__ import annotations

import copy
import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.objective.unit_gate_expectation import UnitGateExpectation
from bayesprune.inference.rules.attraction import is_attracted
from bayesprune.inference.rules.gate_training import GateTraining, Gating
from bayesprune.inference.training.optimizers import make_optimizer
from bayesprune.inference.watching.callbacks import Callback, FitState
from bayesprune.models.costs.macs import count_macs
from bayesprune.models.ready_networks import NETWORKS
from tests.oracles.enumerated_objective import enumerated
from tests.oracles.gated_networks import CASES, PERCEPTRON
from tests.oracles.units_reference import Net

SIZE, SHAPE, STEPS = 240, (1, 4, 4), 120
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(SIZE, *SHAPE, generator=GENERATOR)
Y = (X[:, 0, 0, 0] > 0).long() + (X[:, 0, 0, 1] > 0).long()


def model(network=None, priors=None, **gates):
    torch.manual_seed(1)
    network = network or NETWORKS["lenet-300-100"](SHAPE, 3, width=0.06)  # 16-18-6-3
    gates = bp.UnitGates(**{"kappa": 0.02, "weight_scale": 1.0, **gates})
    return bp.BayesianNetwork(network, priors or {}, data_size=SIZE, gates=gates, example_input=X[:1])


def fitted(bnn=None, gating=None, **options):
    options = {"steps": STEPS, "batch_size": 60, "learning_rate": 0.03} | options
    gating = gating or Gating(delay=0.0, travel=0.5)
    return bp.fit(bnn or model(), (X, Y), rules=[gating], device="cpu", precision="float64", **options)


class Watch(Callback):
    """Notes theta in the numbering of the declared network, and which gates are absorbed, after each step."""

    def __init__(self):
        self.theta, self.absorbed, self.widths, self.optimizers = [], [], [], []

    def on_step(self, state):
        q, count = state.objective.guide.gates, state.objective.model.gates.declared_count
        theta, absorbed = torch.zeros(count, dtype=torch.float64), torch.ones(count, dtype=torch.bool)
        theta[q.origin], absorbed[q.origin] = q.theta.detach(), q.absorbed
        self.theta.append(theta)
        self.absorbed.append(absorbed)
        self.widths.append(state.objective.model.network.fc1.out_features)
        self.optimizers.append(state.optimizer)


@functools.cache
def one_fit():
    """The fit that most tests look at, and what a callback saw of it."""
    watch = Watch()
    return fitted(callbacks=[watch]), watch


# -- theta ---------------------------------------------------------------------------------------------------


def test_theta_stays_in_the_unit_interval_and_zero_absorbs():
    _, watch = one_fit()
    theta, absorbed = torch.stack(watch.theta), torch.stack(watch.absorbed)
    assert float(theta.min()) == 0.0 and float(theta.max()) == 1.0
    assert bool(((theta > 0) & (theta < 1)).any())
    assert not bool((absorbed[:-1] & ~absorbed[1:]).any()) and bool((theta[absorbed] == 0).all())
    assert bool((absorbed[:79] == (theta[:79] == 0)).all())  # with a patience of 1
    moved = (theta[1:] != theta[:-1]).any(dim=1)
    assert bool(moved[:70].all()) and not bool(moved[80:].any())  # rounded at step 80 of 120
    assert bool(((theta[80:] == 0) | (theta[80:] == 1)).all()) and not bool(((theta[78] == 0) | (theta[78] == 1)).all())


@pytest.mark.parametrize("delay", [0.0, 0.25, 0.3])
def test_theta_stays_at_its_start_for_the_share_of_steps_asked_for(delay):
    watch = Watch()
    result = fitted(gating=Gating(travel=0.5, delay=delay), callbacks=[watch])
    held = int(delay * 80)  # of 120 steps 80 are with gates
    theta = torch.stack(watch.theta)
    assert bool((theta[:held] == 0.9).all()) and bool((theta[held] != 0.9).any())
    assert result.settings["gating"][0]["held_until"] == held
    assert not bool(watch.absorbed[max(held - 1, 0)].any())


def test_with_patience_theta_may_come_back_from_zero():
    q, training = trained_by_hand(patience=3)
    slope = torch.zeros(7, dtype=torch.float64)
    for number, sign in enumerate([1, 1, -1, 1, 1, 1, -1, -1]):
        slope[0] = sign * 1.0
        q.theta.grad = slope.clone()
        training._project()
        assert q.theta[0].item() == (0.0 if sign > 0 or number > 5 else 0.4)
        assert bool(q.absorbed[0]) == (number >= 5)  # at zero for the third time in a row
    assert torch.equal(q.theta[1:].detach(), torch.full((6,), 0.3, dtype=torch.float64)) and q.theta.grad is None
    q.touched = torch.arange(7) == 1  # a gate that was not looked at has not been at zero once more
    q.theta.grad = torch.ones(7, dtype=torch.float64)
    for _ in range(3):
        q.theta.grad = torch.ones(7, dtype=torch.float64)
        training._project()
    assert q.absorbed.tolist() == [True, True] + 5 * [False]


def trained_by_hand(estimator=None, bnn=None, **gating):
    """The gates of the tiny network, or another, at 0.3, without a fit, with steps of 0.4."""

    def made(left):
        q = Guide(left, "map").double()
        objective = Objective(left, q, expectation=UnitGateExpectation.of(q, estimator))
        return objective, make_optimizer("adam", objective, 1e-2)

    class ByHand(FitState):
        def replace(self, left, guide=None, for_good=False):
            self.objective, self.optimizer = made(left)
            return self.objective, self.optimizer

    run = ByHand(*made(bnn or PERCEPTRON.model()), 0, 1, 10, 100)
    training = GateTraining(Gating(**{"step": 0.4, "delay": 0.0, **gating}), run)
    with torch.no_grad():
        run.objective.guide.gates.theta.fill_(0.3)
    return run.objective.guide.gates, training


def test_the_step_carries_a_unit_of_no_use_to_zero_in_the_share_of_steps_asked_for():
    for price, log_gamma in ({"log_gamma": 3.0}, 3.0), ({"kappa": 0.06}, 3.0):
        bnn = PERCEPTRON.model(**{"log_gamma": None, **price})
        made = Objective(bnn, Guide(bnn, "map").double())
        state = FitState(made, make_optimizer("adam", made, 1e-2), 0, 1, 10, 300)
        training = GateTraining(Gating(delay=0.0, travel=0.1, round_at=0.5), state)
        assert training.rounding_step == 150
        assert training.rate * (log_gamma / 50) * 0.1 * 150 == pytest.approx(0.9)
        with_delay = GateTraining(Gating(travel=0.1, round_at=0.5, delay=0.2), state)
        assert with_delay.rate * (log_gamma / 50) * 0.1 * 120 == pytest.approx(0.9)  # of the 150 theta moves in 120
    with pytest.raises(ValueError, match=r"costs 0 nats per datum more.*give Gating\(step=...\)"):
        fitted(model(kappa=None, probability=0.5))
    with pytest.raises(ValueError, match=r"costs -.* nats per datum more"):
        fitted(model(kappa=None, beta=(3.0, 1.0)))
    result = fitted(model(kappa=None, probability=0.5), Gating(step=0.1), steps=6)
    assert bool(np.isfinite(result.trace["theta"]).all())


# -- what leaves ---------------------------------------------------------------------------------------------


def test_units_leave_network_and_optimizer_at_the_ends_of_epochs_and_the_trace_says_so():
    result, watch = one_fit()
    trace, network, report = result.trace.isel(restart=0), result.model.network, result.settings["gating"][0]
    left = trace["units_left"].to_pandas()
    assert (left.diff().dropna() <= 0).all().all() and left["fc3"].nunique() == 1
    assert left.iloc[-1].to_dict() == {"fc1": network.fc1.out_features, "fc2": network.fc2.out_features, "fc3": 3}
    assert 0 < network.fc1.out_features < 18 and report["units_at_start"] == {"fc1": 18, "fc2": 6, "fc3": 3}
    changes = [step for step in range(1, STEPS) if watch.widths[step] != watch.widths[step - 1]]
    # A callback sees a removal at an epoch's end one step later, that at the rounding at once.
    assert changes and all(step % 4 == 0 or step == 79 for step in changes)
    assert sum(one["gates"] for one in report["removals"]) == 24 - network.fc1.out_features - network.fc2.out_features
    assert {one["step"] for one in report["removals"]} <= {*range(4, 81, 4)}
    assert len({id(optimizer) for optimizer in watch.optimizers}) == 1 + len(
        {one["step"] for one in report["removals"]}
    )

    macs = [16 * a + a * b + 3 * b for a, b in zip(left["fc1"], left["fc2"], strict=True)]
    assert trace["realised_macs"].values.tolist() == macs
    assert macs[-1] == sum(one.dense for one in count_macs(network, X[:1].double()).values()) < macs[0]
    theta, sets = trace["theta"].values, trace["unit_set"].values
    a, b = theta[:, sets == "fc1"].sum(1), theta[:, sets == "fc2"].sum(1)
    np.testing.assert_allclose(trace["expected_macs"].values, 16 * a + a * b + 3 * b, rtol=1e-5)
    assert trace.attrs["dense_macs"] == macs[0] and trace.attrs["gate_rounding_step"] == 80
    steps = trace["gate_step"].values.astype(int)
    for row, step in enumerate(steps[1:], start=1):
        np.testing.assert_array_equal(theta[row], watch.theta[step - 1].float().numpy())
    assert (theta[0] == np.float32(0.9)).all() and trace["unit_number"].values.tolist() == [*range(18), *range(6)]


@pytest.mark.parametrize(("remove", "last"), [(7, 77), (None, 0)])
def test_units_leave_after_so_many_steps_or_never(remove, last):
    watch = Watch()
    result = fitted(gating=Gating(delay=0.0, travel=0.5, remove=remove), callbacks=[watch], steps=90)
    changes = {step + 1 for step in range(1, 90) if watch.widths[step] != watch.widths[step - 1]}
    if remove is None:
        assert not changes and result.model.plan is None and len(result.model.gates.sets["fc1.gate"].numbers) == 18
        assert result.settings["gating"][0]["removals"] == [] and bool(watch.absorbed[-1].any())
    else:
        assert changes and all(step % 7 == 0 or step == 60 for step in changes)


def test_all_units_closed_one_is_kept_and_said_once():
    with pytest.warns(UserWarning, match="all units of fc[12] are closed: one is kept") as said:
        result = fitted(model(kappa=3.0), steps=60)
    assert sum("fc1 are closed" in str(one.message) for one in said) <= 1
    assert sum("are closed: one is kept" in str(one.message) for one in said) <= 2
    network = result.model.network
    assert network.fc1.out_features == 1 or network.fc2.out_features == 1
    assert sum(float(theta.sum()) for theta in result.unit_inclusion().values()) == 0.0
    outputs = result.predict(X[:5]).mean
    assert float((outputs - outputs[0]).abs().max()) < 1e-12  # nothing passes the closed layer


def test_what_has_to_stay_is_not_removed_again_and_again():
    q, training = trained_by_hand()
    before = training.run.objective
    q.absorbed[4:] = True
    with pytest.warns(UserWarning, match="all units of 2 are closed"):
        assert training.remove()
    assert training.run.objective is not before and len(training.run.objective.guide.gates.theta) == 5
    left = training.run.objective
    assert not training.remove() and training.run.objective is left
    q, training = trained_by_hand(bnn=CASES["convolutional"].model())
    q.absorbed[:3] = True
    assert training.remove() and not training.remove()  # two of what groups read stay, closed as they are
    assert training.run.objective.model.network.first.out_channels == 4


# -- the attraction set --------------------------------------------------------------------------------------


def test_the_attraction_set_in_a_fit_is_that_of_a_computation_by_hand():
    q, training = trained_by_hand(enumerated, PERCEPTRON.model(log_gamma=0.3))
    model_, kappa = training.run.objective.model, 0.3 / 50
    decay = 1.0 / (0.3**2 * 50)
    batches = [(PERCEPTRON.inputs(8, seed), torch.arange(8) % 2) for seed in (5, 6)]
    with torch.no_grad():
        q.theta.copy_((torch.arange(7) % 2).double())  # a draw of the gates is theta itself
    training._recent.extend(batches)
    found = training._find_attracted()
    weights = {n: w.detach() for n, w in model_.ungated_weights_at(training.run.objective.guide.means()).items()}
    readers = {"0.gate": "2.weight", "2.gate": "4.weight"}
    values = q.probabilities()
    norms = {site: torch.zeros(len(theta), dtype=torch.float64) for site, theta in values.items()}
    for x, y in batches:
        network = copy.deepcopy(model_.network)
        for site, tensor in readers.items():
            with torch.no_grad():
                network.get_parameter(tensor).copy_(weights[tensor] * values[site])
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        nn.functional.cross_entropy(network(x), y).backward()
        for site, tensor in readers.items():
            norms[site] = torch.maximum(norms[site], network.get_parameter(tensor).grad.norm(dim=0))
    shares = []
    for site, tensor in readers.items():
        sizes = weights[tensor].norm(dim=0)
        expected = (sizes < kappa / norms[site]) & (values[site] < decay * kappa / norms[site] ** 2)
        assert torch.equal(found[site], expected)
        assert torch.equal(is_attracted(sizes, values[site], kappa, decay, norms[site]), expected)
        shares += expected.tolist()
        wrong = (sizes < kappa / 50 / norms[site]) & (values[site] < decay * kappa / 50 / norms[site] ** 2)
        assert not torch.equal(wrong, expected) or not bool(expected.any())  # control: nats of all the data
    assert 0 < sum(shares) < len(shares)


def test_the_attraction_set_needs_no_weights_that_read_units_without_gates():
    def run(net, x):
        x = x.flatten(1)
        other = net.other(x)
        return net.two(torch.relu(net.one(x))) + net.three(net.norm(other) + other)

    layers = {"one": nn.Linear(16, 4), "two": nn.Linear(4, 3), "other": nn.Linear(16, 5), "three": nn.Linear(5, 3)}
    bnn = model(Net(run, norm=nn.LayerNorm(5), **layers))
    assert list(bnn.gates.sets) == ["one.gate"] and "three.weight" not in bnn.gates.tensors
    result = fitted(bnn, Gating(delay=0.0, travel=9.0, round_at=None), steps=8)
    assert result.trace["attracted"].notnull().all()


def test_with_the_rule_attracted_units_leave_before_theta_is_zero():
    def highest(rule):
        """The largest theta from which a gate was closed for good by the next step."""
        watch = Watch()
        fitted(gating=Gating(delay=0.0, travel=0.5, rule=rule, round_at=None), steps=80, callbacks=[watch])
        theta, absorbed = torch.stack(watch.theta), torch.stack(watch.absorbed)
        assert bool(absorbed[-1].any())
        return float(theta[:-1][absorbed[1:] & ~absorbed[:-1]].max())

    assert 0.5 > highest("attracted") > highest("absorbed")
    with pytest.raises(ValueError, match="rule='attracted' needs to know the weights' decay"):
        fitted(model(priors={"fc2.weight": bp.Gaussian()}), Gating(rule="attracted"))


# -- what is asked of the fit afterwards ---------------------------------------------------------------------


def declared_network(result, restart=0):
    """The network as it was declared, with zeros by hand for what has left, from the plan and the guide's points."""
    one = result.restarts[restart]
    weights = {**one.model.network.state_dict(), **one.model.ungated_weights_at(one.guide.means())}
    theta = [result.unit_inclusion(restart)[name].values > 0.5 for name in ("fc1", "fc2")]
    whole = copy.deepcopy(one.model.declared)
    plan = one.model.plan["tensors"]
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            kept = plan.get(name, {"kept": {}})["kept"]
            index = [torch.tensor(kept.get(str(dim), range(size))) for dim, size in enumerate(parameter.shape)]
            full = torch.zeros_like(parameter)
            full[torch.meshgrid(*index, indexing="ij")] = weights[name].detach()
            parameter.copy_(full)
        whole.fc2.weight.mul_(torch.tensor(theta[0]))
        whole.fc3.weight.mul_(torch.tensor(theta[1]))
    return whole.eval()


def test_predictions_pruned_and_compact_networks_are_those_of_the_units_left(tmp_path):
    result, _ = one_fit()
    x = X.double()
    with torch.no_grad():
        outputs = declared_network(result)(x)
    probabilities = outputs.softmax(-1)
    torch.testing.assert_close(result.predict(x).mean, probabilities, rtol=0.0, atol=1e-10)
    assert float((probabilities.argmax(1) == Y).double().mean()) > 0.8
    pruned = bp.prune(result, min_inclusion=0.5)
    with torch.no_grad():
        torch.testing.assert_close(pruned.network(x), outputs, rtol=0.0, atol=1e-10)
    shapes = {name: tuple(mask.shape) for name, mask in pruned.masks.items()}
    assert shapes == {"fc1.weight": (18, 16), "fc2.weight": (6, 18), "fc3.weight": (3, 6)}
    a, b = (torch.tensor(theta.values > 0.5) for theta in result.unit_inclusion().values())
    assert torch.equal(pruned.masks["fc2.weight"], b[:, None] & a) and torch.equal(pruned.masks["fc1.weight"][:, 0], a)
    small = pruned.compact(x[:1])
    assert (small.network.fc1.out_features, small.network.fc2.out_features) == (int(a.sum()), int(b.sum()))
    with torch.no_grad():
        torch.testing.assert_close(small.network(x), outputs, rtol=0.0, atol=1e-9)
        assert float((declared_network(result)(x.roll(1, -1)) - outputs).abs().max()) > 0.1  # control

    kept = float(sum(mask.sum() for mask in pruned.masks.values()) / (18 * 16 + 6 * 18 + 3 * 6))
    more = bp.prune(result, sparsity=1.0 - kept / 2)
    assert sum(int(m.sum()) for m in more.masks.values()) == pytest.approx(kept / 2 * 414, abs=1.0)
    assert all(bool((m <= pruned.masks[name]).all()) for name, m in more.masks.items())
    with pytest.raises(ValueError, match="sparsity"):
        bp.prune(result, sparsity=0.05)  # less than the fit has

    found = result.inclusion_probabilities()
    assert found["fc2.weight"].shape == (int(b.sum()), int(a.sum())) and bool((found["fc2.weight"] == 1.0).all())


def test_inclusion_probabilities_before_rounding_are_products_of_theta():
    result = fitted(gating=Gating(delay=0.0, travel=1.0, round_at=None, remove=None), steps=30)
    a, b = (theta.values.astype(np.float64) for theta in result.unit_inclusion().values())
    assert ((a > 0.0) & (a < 1.0)).any()
    found = result.inclusion_probabilities()
    np.testing.assert_allclose(found["fc1.weight"], np.broadcast_to(a[:, None], (18, 16)), atol=1e-6)
    np.testing.assert_allclose(found["fc2.weight"], b[:, None] * a, atol=1e-6)
    np.testing.assert_allclose(found["fc3.weight"], np.broadcast_to(b, (3, 6)), atol=1e-6)
    assert not np.allclose(found["fc2.weight"], np.minimum(b[:, None], a), atol=1e-3)  # control
    assert bool((result.inclusion_probabilities(units=False)["fc2.weight"] == 1.0).all())
    masks = bp.prune(result, min_inclusion=0.5).masks
    assert torch.equal(masks["fc2.weight"], torch.tensor((b[:, None] > 0.5) & (a > 0.5)))


@pytest.mark.parametrize("own", [False, True])
def test_a_saved_fit_comes_back_with_its_smaller_networks(own, tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)) if own else None
    priors = None if own else {"*.weight": bp.Gaussian()}
    result = fitted(model(network, priors), restarts=2, steps=90, guide="map")
    folder = result.save(tmp_path / "fit")
    again = bp.Fit.load(folder, model=model(network)) if own else bp.Fit.load(folder)
    for number, (one, other) in enumerate(zip(result.restarts, again.restarts, strict=True)):
        assert {k: v.shape for k, v in one.model.network.state_dict().items()} == {
            k: v.shape for k, v in other.model.network.state_dict().items()
        }
        assert torch.equal(*(which.predict(X.double(), restart=number).mean for which in (result, again)))
        assert result.unit_inclusion(number).identical(again.unit_inclusion(number))
        pruned, loaded = (bp.prune(which, min_inclusion=0.5, restart=number) for which in (result, again))
        assert all(torch.equal(mask, loaded.masks[name]) for name, mask in pruned.masks.items())
        assert one.model.plan == other.model.plan and other.model.plan is not None
    assert not torch.equal(*(result.predict(X.double(), restart=number).mean for number in (0, 1)))  # control
    if own:
        with pytest.raises(ValueError, match="code of your own"):
            bp.Fit.load(folder)
        with pytest.raises(ValueError, match="other gates of units"):
            bp.Fit.load(folder, model=model(network, kappa=0.03))


def test_a_fit_with_gates_can_be_repeated_and_leaves_the_model_alone():
    bnn = model()
    before = copy.deepcopy(bnn.state_dict())
    one, two = (fitted(bnn, steps=60) for _ in range(2))
    assert all(torch.equal(value, before[key]) for key, value in bnn.state_dict().items()) and bnn.plan is None
    assert one.trace["theta"].equals(two.trace["theta"])
    assert torch.equal(one.predict(X.double()).mean, two.predict(X.double()).mean)
    assert not one.trace["theta"].equals(fitted(bnn, steps=60, seed=1).trace["theta"])  # control


@pytest.mark.filterwarnings("ignore:all units of:UserWarning")
def test_residual_branches_leave_while_a_fit_runs():
    case = CASES["residual"]
    level = torch.randn(50, 1, 1, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = 0.5 * case.inputs(50) + level
    y = (x.mean(dim=(1, 2, 3)) > 0).long()
    bnn = case.model(log_gamma=None, kappa=0.02, weight_scale=1.0, estimator="exact-toggle")
    with torch.no_grad():
        bnn.network.b_two.weight.zero_()  # this branch is of no use
        bnn.network.b_two.bias.zero_()
    result = bp.fit(
        bnn, (x, y), steps=40, batch_size=50, device="cpu", precision="float64", learning_rate=3e-3,
        rules=[Gating(delay=0.0, travel=0.4)],
    )  # fmt: skip
    inclusion = result.unit_inclusion()
    assert result.trace["is_layer"].values.sum() == 2 and {"a_two", "b_two"} <= set(inclusion)
    assert [inclusion[name].item() for name in ("a_two", "b_two")] == [1.0, 0.0]
    assert result.model.plan["branches_removed"] == ["b_two"]
    left = {key.rpartition(".")[0] for key, _ in result.model.network.named_parameters()}
    assert {"a_in", "a_two"} <= left and not {"b_in", "b_one", "b_out", "b_two"} & left
    pruned = bp.prune(result, min_inclusion=0.5)
    with torch.no_grad():
        outputs = pruned.network.eval()(x)
    torch.testing.assert_close(result.predict(x).mean, outputs.softmax(-1), rtol=0.0, atol=1e-9)
    assert float(outputs.std()) > 1e-3
    small = pruned.compact(x[:1])
    with torch.no_grad():
        torch.testing.assert_close(small.network(x), outputs, rtol=0.0, atol=1e-8)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_gamma": 2.0, "kappa": 0.1}, r"takes one of log_gamma, kappa, .*, not log_gamma and kappa"),
        ({"log_gamma": 0.0}, r"log_gamma=...\) must be positive, not 0.0: a price of zero or less"),
        ({"log_gamma": -1.0}, r"log_gamma=...\) must be positive, not -1.0"),
        ({"kappa": float("inf")}, r"kappa=...\) takes a number or None, not inf"),
        ({"kappa": 0.1, "weight_scale": 0.0}, r"weight_scale=...\) must be positive, not 0.0$"),
        ({"probability": 1.0}, r"must lie in \(0, 1\), not 1.0"),
        ({"beta": (0.5, 2.0)}, r"both at least 1, not \(0.5, 2.0\)"),
        ({"kappa": 0.1, "start": 0.0}, r"start=...\) must lie in \(0, 1\], not 0.0"),
    ],
)
def test_a_declaration_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bp.UnitGates(**arguments)


def test_a_unit_costs_log_n_nats_where_no_price_is_given():
    for size in (3, 1294, 60_000):
        pressure, given = bp.UnitGates().pressure(size), bp.UnitGates(log_gamma=math.log(size)).pressure(size)
        assert pressure == given
    assert bp.UnitGates().pressure(1) == bp.UnitGates().pressure(3)  # log 1 would be no price
    assert bp.UnitGates(cost=bp.CostPressure(0.1)).pressure(1294) is None  # the cost is the price


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"travel": 0.0}, "must be positive, not 0.0 and None"),
        ({"step": -1.0}, "must be positive, not 0.25 and -1.0"),
        ({"patience": 0}, "must be at least 1, not 0"),
        ({"remove": "batch"}, "takes 'epoch', a number of steps or None, not 'batch'"),
        ({"remove": 0}, "takes 'epoch', a number of steps or None, not 0"),
        ({"rule": "close"}, "takes 'absorbed' or 'attracted', not 'close'"),
        ({"round_at": 0.0}, r"a share of the steps in \(0, 1\], not 0.0"),
        ({"delay": 1.0}, r"a share of the steps with gates in \[0, 1\), not 1.0"),
        ({"delay": -0.1}, r"a share of the steps with gates in \[0, 1\), not -0.1"),
    ],
)
def test_gating_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Gating(**arguments)


def test_what_does_not_go_with_gates_is_refused_before_training():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    plain = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian()}, data_size=SIZE)
    with pytest.raises(ValueError, match=r"the model has no gates of units: declare gates=UnitGates"):
        bp.fit(plain, (X, Y), steps=1, rules=[Gating()])
    with pytest.raises(ValueError, match=r"execution='fused' cannot be taken.*repeat random numbers"):
        fitted(gating=Gating(estimator="exact-toggle"), execution="fused")
    with pytest.raises(ValueError, match=r"is declared per block.*Gating\(remove=None\)"):
        fitted(model(priors={"fc2.weight": bp.SpikeAndSlab(level="block")}))
    with pytest.raises(ValueError, match="is not an estimator for unit gates"):
        Gating(estimator="guess")
    result, _ = one_fit()
    with pytest.raises(ValueError, match="units have been removed from this model"):
        bp.fit(result.model, (X, Y), steps=1, restarts=2)
    with pytest.raises(ValueError, match="the model has no gates of units"):
        bp.fit(plain, (X, Y), steps=1, device="cpu").unit_inclusion()
