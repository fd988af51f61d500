"""Unit-gate estimators against enumeration of all gates: which are unbiased, which are not and where."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from scipy import integrate
from torch.nn import functional as F

from bayesprune.inference.objective.unit_gate_estimators import (
    ESTIMATORS,
    DisARM,
    ExactToggle,
    Gates,
    HardConcreteRelaxation,
    ReinforceLeaveOneOut,
    StraightThrough,
    Trapezoid,
    estimator_named,
)
from tests.oracles.enumerated_gates import enumerate_gates, tiny_network

INSIDE = {"a": (0.2, 0.5, 0.8, 0.6), "b": (0.7, 0.4, 0.9)}
MIXED = {"a": (0.0, 0.5, 1.0, 0.6), "b": (1.0, 0.0, 0.9)}
CORNER = {"a": (0.0, 1.0, 1.0, 0.0), "b": (1.0, 0.0, 1.0)}
OPEN = {site: torch.ones(len(v), dtype=torch.float64) for site, v in INSIDE.items()}
UNBIASED = {
    "toggle 3 of 7": ExactToggle(units=3),
    "toggle all": ExactToggle(),
    "reinforce": ReinforceLeaveOneOut(),
    "disarm": DisARM(),
    "disarm, 2 pairs": DisARM(pairs=2),
}
SURE, SEEN = 4.0, 5.0  # standard errors, the largest of up to 35: at most of what is unbiased, at least of what is not


def gates_of(theta, batch, per_example):
    parameters = {site: torch.tensor(v, dtype=torch.float64, requires_grad=True) for site, v in theta.items()}
    live = {site: torch.ones(len(v), dtype=torch.bool) for site, v in theta.items()}
    return Gates(parameters, live, batch, per_example)


def one_step(estimator, nll, gates, weights=()):
    """The estimate, and the gradients of theta, of all sites in a row, and of the weights."""
    estimate = estimator(nll, gates)
    inputs = (*gates.theta.values(), *weights)
    found = torch.autograd.grad(estimate.surrogate, inputs, allow_unused=True)
    sites = [torch.zeros_like(p) if g is None else g for p, g in zip(inputs, found, strict=True)]
    return estimate, torch.cat(sites[: len(gates.theta)]), [g.flatten() for g in sites[len(gates.theta) :]]


def many_steps(estimator, theta, per_example, steps=300, copies=20):
    """Values, gradients of theta and of weights, (steps, ...); with masks for each example, means over copies."""
    return _many_steps(estimator, tuple(theta.items()), per_example, steps, copies)


@functools.cache
def _many_steps(estimator, items, per_example, steps, copies):
    torch.manual_seed(2)
    network = tiny_network()
    if per_example:
        network = type(network)(network.weights, network.x.repeat(copies, 1), network.y.repeat(copies))
    gates = gates_of(dict(items), len(network.x), per_example)
    rows = []
    for _ in range(steps):
        estimate, of_theta, of_weights = one_step(estimator, network, gates, network.weights)
        rows.append((estimate.surrogate.detach()[None], of_theta, torch.cat(of_weights)))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def truth(theta):
    network = tiny_network()
    exact = enumerate_gates(network, gates_of(theta, 5, False).theta, network.weights)
    return exact.value[None], torch.cat([*exact.theta.values()]), torch.cat([g.flatten() for g in exact.weights])


def off(samples, expected):
    """How many standard errors the mean is away, the largest of all entries."""
    error = samples.std(0) / math.sqrt(len(samples))
    return float(((samples.mean(0) - expected).abs() / error.clamp_min(1e-12)).max())


def test_the_enumerated_gradient_is_the_difference_of_the_ends_of_an_affine_function():
    theta = gates_of(INSIDE, 5, False).theta
    network = tiny_network()
    exact = enumerate_gates(network, theta)
    values = []
    for end in (0.0, 1.0, 0.5):
        moved = {**theta, "b": torch.tensor([0.7, end, 0.9], dtype=torch.float64)}
        values.append(enumerate_gates(network, moved).value)
    assert exact.theta["b"][1] == pytest.approx(float(values[1] - values[0]), rel=1e-10)
    assert values[2] == pytest.approx(float(values[0] + values[1]) / 2, rel=1e-10)
    assert abs(exact.theta["b"][0] - (values[1] - values[0])) > 1e-3  # control: another unit's is another number


@pytest.mark.parametrize("per_example", [True, False])
@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_estimators_agree_with_enumeration(name, per_example):
    value, of_theta, of_weights = many_steps(UNBIASED[name], INSIDE, per_example)
    exact_value, exact_theta, exact_weights = truth(INSIDE)
    assert off(value, exact_value) < SURE
    assert off(of_theta, exact_theta) < SURE
    assert off(of_weights, exact_weights) < SURE
    assert off(-of_theta, exact_theta) > SEEN  # controls: the wrong sign, and the gradient of some other theta
    assert off(of_theta, truth(MIXED)[1]) > SEEN


@pytest.mark.parametrize("per_example", [True, False])
def test_a_toggle_without_its_factor_is_biased_and_the_weight_of_the_penalty_carries_the_same_factor(per_example):
    theta = many_steps(ExactToggle(units=3), INSIDE, per_example)[1]
    assert off(theta * 3 / 7, truth(INSIDE)[1]) > SEEN
    gates, network, weights = gates_of(INSIDE, 5, per_example), tiny_network(), []
    for _ in range(150):
        estimate, of_theta, _ = one_step(ExactToggle(units=3), network, gates)
        weight = torch.cat([*estimate.weight.values()])
        assert not of_theta[weight == 0].any()
        assert int((weight > 0).sum()) == 3 and set(weight.tolist()) == {0.0, 7 / 3}
        assert int((estimate.weight["a"] > 0).sum()) in (1, 2)  # in proportion: 3 x 4 / 7
        weights.append(weight)
    assert off(torch.stack(weights), torch.ones(7, dtype=torch.float64)) < SURE


@pytest.mark.parametrize("per_example", [True, False])
def test_a_full_toggle_is_the_difference_of_losses_given_the_draw_of_the_other_gates(per_example):
    seen, network = [], tiny_network()

    def recording(values):
        seen.append(values)
        return network(values)

    torch.manual_seed(3)
    _, of_theta, _ = one_step(ExactToggle(), recording, gates_of(INSIDE, 5, per_example))
    drawn, differences = seen[0], []
    assert drawn["a"].shape == ((5, 4) if per_example else (4,))
    for site, gate in drawn.items():
        for unit in range(gate.shape[-1]):
            ends = [gate.clone(), gate.clone()]
            for end, changed in enumerate(ends):
                changed[..., unit] = end
            low, high = (network({**drawn, site: changed}).mean().detach() for changed in ends)
            differences.append(high - low)
    expected = torch.stack(differences)
    torch.testing.assert_close(of_theta, expected, rtol=1e-11, atol=1e-13)
    assert (of_theta - expected.roll(1)).abs().max() > 1e-3


@pytest.mark.parametrize("per_example", [True, False])
def test_a_full_toggle_is_exact_where_all_gates_are_decided_and_scores_see_nothing_there(per_example):
    gates, network = gates_of(CORNER, 5, per_example), tiny_network()
    expected = truth(CORNER)[1]
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(one_step(ExactToggle(), network, gates)[1], expected, rtol=1e-11, atol=1e-13)
    for blind in (ReinforceLeaveOneOut(), DisARM(), HardConcreteRelaxation()):
        assert not one_step(blind, network, gates)[1].any()
        assert one_step(blind, network, gates_of(INSIDE, 5, per_example))[1].any()


@pytest.mark.parametrize("per_example", [True, False])
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_near_and_at_the_ends(name, per_example, dtype):
    tiny = torch.finfo(dtype).eps
    ends = torch.tensor([0.0, 1.0, tiny, 1.0 - tiny], dtype=dtype, requires_grad=True)
    middle = torch.full((3,), 0.5, dtype=dtype, requires_grad=True)
    live = {"a": torch.ones(4, dtype=torch.bool), "b": torch.ones(3, dtype=torch.bool)}
    network = tiny_network()
    gates = Gates({"a": ends, "b": middle}, live, 5, per_example)
    for _ in range(5):
        estimate, of_theta, of_weights = one_step(estimator_named(name), network, gates, network.weights)
        assert torch.isfinite(of_theta).all() and all(torch.isfinite(g).all() for g in of_weights)
        assert of_theta.dtype == dtype and torch.isfinite(estimate.surrogate)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_absorbed_gates_stay_closed_and_get_no_gradient(name):
    seen, network = [], tiny_network()

    def recording(values):
        seen.append(values)
        return network(values)

    gates = gates_of(MIXED, 5, True)
    gates.live["a"][0], gates.live["b"][1] = False, False
    estimate, of_theta, _ = one_step(ESTIMATORS[name](), recording, gates)
    assert not of_theta[[0, 5]].any() and of_theta[[1, 3, 6]].any()
    assert not seen[0]["a"][:, 0].any() and bool((seen[0]["a"][:, 2] == 1).all())
    if estimate.weight is not None:
        assert torch.cat([*estimate.weight.values()]).tolist() == [0, 1, 1, 1, 1, 0, 1]


def test_chunks_and_repeated_noise_change_nothing():
    network = tiny_network()
    gates = gates_of(INSIDE, 5, True)

    def noisy(values):  # gates that do nothing, and noise of its own
        return F.dropout(network.x, 0.5).sum(1) + 0.0 * (values["a"].sum(-1) + values["b"].sum(-1))

    found = []
    for estimator in (ExactToggle(chunk=1), ExactToggle(chunk=11), ExactToggle()):
        torch.manual_seed(5)
        found.append(one_step(estimator, network, gates)[1])
        assert not one_step(estimator, noisy, gates)[1].any()
    assert found[0].any()
    torch.testing.assert_close(found[0], found[2], rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(found[1], found[2], rtol=1e-11, atol=1e-13)
    assert not one_step(DisARM(), noisy, gates)[1].any()
    torch.manual_seed(5)
    first = noisy(OPEN).detach()
    assert (first - noisy(OPEN)).abs().max() > 0.1  # control: noise that is not repeated differs


def edge(estimator, loss, theta):
    """The exact mean of the estimate for one gate, from its value at either end of the edge."""
    gates = gates_of({"a": [theta]}, 400, True)
    drawn = []

    def recording(values):
        drawn.append(values["a"].detach().squeeze(1))
        return torch.where(drawn[0] == end, loss(values["a"].squeeze(1)), 0.0)

    total = 0.0
    for end, chance in ((0.0, 1.0 - theta), (1.0, theta)):
        drawn.clear()
        of_theta = one_step(estimator, recording, gates)[1]
        share = float((drawn[0] == end).double().mean())
        assert share > 0
        total += chance * float(of_theta) / share
    return total


@pytest.mark.parametrize("theta", [0.05, 0.3, 0.95])
def test_the_trapezoid_is_exact_along_quadratic_edges_and_not_along_cubic_ones(theta):
    def quadratic(z):
        return 0.7 * z**2 - 1.9 * z + 0.4

    def cubic(z):
        return 0.7 * z**3 - 1.9 * z

    assert edge(Trapezoid(), quadratic, theta) == pytest.approx(0.7 - 1.9, rel=1e-10)
    assert abs(edge(Trapezoid(), cubic, theta) - (0.7 - 1.9)) > 0.3
    assert abs(edge(StraightThrough(), quadratic, theta) - (0.7 - 1.9)) > 0.2


def test_the_means_of_the_biased_estimators_are_what_their_docstrings_say():
    def square(z):
        return 2.0 * z**2 + z

    zero, one = 1.0, 5.0  # its derivative at the ends
    assert edge(StraightThrough(), square, 0.9) == pytest.approx(0.9 * one + 0.1 * zero, rel=1e-10)
    assert edge(StraightThrough(), lambda z: 3.0 * z, 0.9) == pytest.approx(3.0, rel=1e-10)
    held = edge(Trapezoid(clamp=0.1), square, 0.95)
    assert held == pytest.approx(0.5 * (0.95 / 0.9 * one + 0.05 / 0.1 * zero), rel=1e-10)
    assert abs(held - (one + zero) / 2) > 0.1  # what it would be without the clamp
    at_one = one_step(Trapezoid(), lambda v: square(v["a"]), gates_of({"a": [1.0]}, 1, False))[1]
    assert float(at_one) == pytest.approx(one / 2 / 0.95, rel=1e-10)


def test_trapezoid_and_straight_through_are_biased_in_a_network_and_the_toggle_at_the_same_theta_is_not():
    theta = {"a": (0.99, 0.5, 0.8, 0.6), "b": (0.7, 0.99, 0.9)}
    expected = truth(theta)[1]
    for biased in (Trapezoid(), StraightThrough(), HardConcreteRelaxation()):
        assert off(many_steps(biased, theta, True, 50, copies=100)[1], expected) > SEEN
    assert off(many_steps(ExactToggle(), theta, True, 50, copies=100)[1], expected) < SURE


def test_theta_of_the_relaxation_is_the_probability_of_a_gate_above_one_half():
    seen = []

    def nll(values):
        seen.append(values["a"].detach())
        return values["a"].sum(1)

    HardConcreteRelaxation()(nll, gates_of({"a": [0.1, 0.5, 0.97]}, 20_000, True))
    theta = torch.tensor([0.1, 0.5, 0.97], dtype=torch.float64)
    assert off((seen[0] > 0.5).double(), theta) < SURE
    assert off((seen[0] > 0).double(), theta) > SEEN  # controls
    assert off(seen[0], theta) > SEEN


def test_the_relaxation_has_the_gradient_of_its_own_expected_loss_and_not_of_the_gate_s():
    def expected(theta):  # of z^2, by quadrature over u, from the paper's formulas
        log_alpha = math.log(theta / (1 - theta))

        def squared(logit):
            z = min(1.0, max(0.0, 1.2 / (1 + math.exp(-(logit + log_alpha) / (2 / 3))) - 0.1))
            return z**2 * math.exp(-abs(logit)) / (1 + math.exp(-abs(logit))) ** 2

        kinks = [2 / 3 * math.log(s / (1 - s)) - log_alpha for s in (0.1 / 1.2, 1.1 / 1.2)]
        return sum(integrate.quad(squared, a, b, epsabs=1e-12)[0] for a, b in ((-40, kinks[0]), kinks, (kinks[1], 40)))

    torch.manual_seed(2)
    gates = gates_of({"a": [0.7]}, 1000, True)
    steps = torch.stack(
        [one_step(HardConcreteRelaxation(), lambda v: v["a"].squeeze(1) ** 2, gates)[1] for _ in range(200)]
    )
    slope = (expected(0.7 + 1e-4) - expected(0.7 - 1e-4)) / 2e-4
    assert off(steps, slope) < SURE
    assert off(steps, 1.0) > SEEN  # C(1) - C(0)


def test_noise_falls_from_reinforce_to_disarm_to_the_toggle():
    estimators = (ReinforceLeaveOneOut(2), DisARM(), ExactToggle())
    sd = [many_steps(estimator, INSIDE, False)[1].std(0).mean() for estimator in estimators]
    assert sd[0] > 1.05 * sd[1] and sd[1] > 1.5 * sd[2]


def test_estimators_are_found_by_name_and_a_wrong_one_is_refused():
    assert estimator_named("disarm") == DisARM()
    mine = ExactToggle(units=3)
    assert estimator_named(mine) is mine
    for wrong in ("reinmax", DisARM, None):
        with pytest.raises(ValueError, match="give one of 'exact-toggle', 'trapezoid'"):
            estimator_named(wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExactToggle(units=0), r"ExactToggle\(units=...\) is 0, expected 1 or more"),
        (lambda: ExactToggle(chunk=0), r"ExactToggle\(chunk=...\) is 0, expected 1 or more"),
        (lambda: ReinforceLeaveOneOut(1), r"particles=...\) is 1, expected 2 or more"),
        (lambda: DisARM(0), r"pairs=...\) is 0, expected 1 or more"),
        (lambda: Trapezoid(0.0), r"clamp=...\) is 0.0, expected a number in \(0, 0.5\]"),
        (lambda: Trapezoid(0.6), r"clamp=...\) is 0.6"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
