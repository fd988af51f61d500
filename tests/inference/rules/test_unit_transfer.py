"""After units were removed, guide, point estimates and optimizer go on as if they had only been closed."""

from __future__ import annotations

import pytest
import torch

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.low_rank_normal import LowRankNormalFamily
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.objective.unit_gate_expectation import UnitGateExpectation
from bayesprune.inference.rules.unit_transfer import check_removable, transfer
from bayesprune.inference.training.optimizers import make_optimizer
from bayesprune.models.unit_removal import without_units
from tests.oracles.enumerated_objective import enumerated
from tests.oracles.gated_networks import CASES, PERCEPTRON

CLOSED = {"0.gate": torch.tensor([True, False, True, False]), "2.gate": torch.tensor([False, True, False])}
STAY_0, STAY_2 = [1, 3], [0, 2]
SLICES = {"0.weight": (STAY_0, None), "2.weight": (STAY_2, STAY_0), "4.weight": (None, STAY_2)}
SLICES |= {"0.bias": (STAY_0,), "2.bias": (STAY_2,), "4.bias": (None,)}
PRIORS = {
    "points": ({}, None),
    "points, mean-field": ({}, "meanfield"),
    "gaussian": ({"*.weight": bp.Gaussian()}, "meanfield"),
    "gaussian, low rank": ({"*.weight": bp.Gaussian()}, {"weight": "lowrank"}),
    "halo": ({"*.weight": bp.HALO()}, "map"),
    "halo of one layer, mean-field": ({"2.weight": bp.HALO()}, "meanfield"),
    "horseshoe": ({"*.weight": bp.Horseshoe()}, "meanfield"),
    "horseshoe of outputs": ({"*.weight": bp.Horseshoe(per="output")}, "meanfield"),
    "spike and slab of outputs": ({"*.weight": bp.SpikeAndSlab(level="output")}, "paired"),
    "spike and slab of inputs": ({"*.weight": bp.SpikeAndSlab(level="input")}, "paired"),
    "spike and slab": ({"0.weight": bp.SpikeAndSlab(), "2.weight": bp.SpikeAndSlab()}, "meanfield"),
}


def problem(priors, choice, estimator=None):
    """Objective, optimizer, data and a function that makes them for a model, after three steps."""
    torch.manual_seed(0)
    model = bp.BayesianNetwork(
        PERCEPTRON.make().double(), priors, data_size=20, gates=bp.UnitGates(log_gamma=2.0),
        example_input=torch.zeros(1, 3),
    )  # fmt: skip

    def rebuild(left):
        q = Guide(left, choice).double()
        made = Objective(left, q, expectation=UnitGateExpectation.of(q, estimator))
        return made, make_optimizer("adam", made, 1e-2)

    made, optimizer = rebuild(model)
    x, y = PERCEPTRON.inputs(8), torch.arange(8) % 2
    with torch.no_grad():
        made.guide.gates.theta.copy_(torch.linspace(0.2, 0.9, 7, dtype=torch.float64))
        made.guide.gates.theta[torch.cat(list(CLOSED.values()))] = 0.0
    made.guide.gates.absorbed |= made.guide.gates.theta == 0
    for _ in range(3):
        step(made, optimizer, x, y)
    return made, optimizer, x, y, rebuild


def step(made, optimizer, x, y):
    optimizer.zero_grad()
    made.guide.gates.theta.grad = None
    (made(x, y) / made.model.data_size).backward()
    optimizer.step()


def remove(made, optimizer, rebuild, closed):
    removed = without_units(made.model, closed)
    fresh = rebuild(removed.model)
    transfer(removed, (made, optimizer), fresh)
    return fresh


def cut_by_hand(tensor, name):
    """What is left of a tensor, or of a latent, of the perceptron."""
    for dim, index in enumerate(SLICES[name][: tensor.ndim]):
        if index is not None and tensor.shape[dim] > 1:
            tensor = tensor.index_select(dim, torch.tensor(index))
    return tensor


def columns_of(location):
    """Loadings by which an entry's row and the order of the columns can be told."""
    return (location.detach()[:, None] * torch.arange(1.0, LowRankNormalFamily.rank + 1.0)).reshape(-1)


@pytest.mark.parametrize("name", PRIORS)
def test_what_is_left_is_the_slice_of_what_was_there_for_guide_points_and_optimizer(name):
    made, optimizer, _, _, rebuild = problem(*PRIORS[name])
    with torch.no_grad():  # relations that a wrong order would break
        for family in made.guide.families:
            own = dict(family.named_parameters())
            if "log_scale" in own:
                own["log_scale"].copy_(0.1 * own["location"] - 2.0)
            if "loading" in own:
                own["loading"].copy_(columns_of(own["location"]))
            if "logit" in own:
                own["logit"].add_(0.01 * torch.arange(len(own["logit"])))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["exp_avg"].copy_(2.0 * parameter + 1.0)
                optimizer.state[parameter]["exp_avg_sq"].copy_(parameter.square() + 3.0)
    means = made.guide.means()
    after, fresh = remove(made, optimizer, rebuild, CLOSED)

    found = after.guide.means()
    assert set(found) == set(means) and after.guide.family_of == made.guide.family_of
    for site, spec in made.model.sites.items():
        assert torch.equal(found[site], cut_by_hand(means[site], spec.tensor)), site
        if found[site].shape != means[site].shape:  # control: other units
            others = means[site][tuple(slice(0, size) for size in found[site].shape)]
            assert not torch.equal(found[site], others), site
    for family in after.guide.families:
        own = dict(family.named_parameters())
        if "log_scale" in own:
            torch.testing.assert_close(own["log_scale"], 0.1 * own["location"] - 2.0, rtol=0.0, atol=1e-14)
        if "loading" in own:
            torch.testing.assert_close(own["loading"], columns_of(own["location"]), rtol=0.0, atol=1e-14)
    before = dict(made.model.network.named_parameters())
    for key, parameter in after.model.network.named_parameters():
        assert torch.equal(parameter, cut_by_hand(before[key], key))
        assert parameter.requires_grad == before[key].requires_grad
    old, new = made.guide.gates, after.guide.gates
    stays = ~torch.cat(list(CLOSED.values()))
    assert torch.equal(new.theta, old.theta[stays]) and torch.equal(new.origin, stays.nonzero().squeeze(1))
    assert not bool(new.absorbed.any()) and not bool(new.settled)

    left = 0
    for group, earlier in zip(fresh.param_groups, optimizer.param_groups, strict=True):
        assert group["lr"] == earlier["lr"] and group["name"] == earlier["name"]
    owned = [*after.guide.families.parameters(), *after.model.network.parameters()]
    for group in fresh.param_groups:
        for parameter in group["params"]:
            if not any(parameter is one for one in owned):
                continue  # of the network as it was declared, which gets no gradient
            state = fresh.state[parameter]
            torch.testing.assert_close(state["exp_avg"], 2.0 * parameter + 1.0, rtol=0.0, atol=1e-14)
            torch.testing.assert_close(state["exp_avg_sq"], parameter.square() + 3.0, rtol=0.0, atol=1e-14)
            assert float(state["step"]) == 3.0
            left += parameter.numel()
    assert left < sum(p.numel() for group in optimizer.param_groups for p in group["params"])


@pytest.mark.parametrize("prior", ["points", "halo"])
def test_the_steps_after_a_removal_are_those_that_closed_gates_would_have_led_to(prior):
    def trained(how):
        made, optimizer, x, y, rebuild = problem(*PRIORS[prior], enumerated)
        slopes = []
        if how != "closed":
            made, optimizer = remove(made, optimizer, rebuild, CLOSED)
        if how == "without the optimizer's state":
            optimizer = make_optimizer("adam", made, 1e-2)
        for _ in range(4):
            step(made, optimizer, x, y)
            slopes.append(made.guide.gates.theta.grad.clone())
            with torch.no_grad():
                made.guide.gates.theta.sub_(0.05 * torch.where(made.guide.gates.absorbed, 0.0, slopes[-1]))
                made.guide.gates.theta.clamp_(0.0, 1.0)
        weights = made.model.ungated_weights_at(made.guide.means())
        return dict(made.model.network.named_parameters()) | weights, torch.stack(slopes), made

    wanted, slopes, closed = trained("closed")
    found, own_slopes, removed = trained("removed")
    stays = ~torch.cat(list(CLOSED.values()))
    for key in SLICES:
        torch.testing.assert_close(found[key], cut_by_hand(wanted[key], key), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(own_slopes, slopes[:, stays], rtol=0.0, atol=1e-12)
    torch.testing.assert_close(
        removed.guide.gates.theta, closed.guide.gates.theta[stays].detach(), rtol=0.0, atol=1e-12
    )
    assert bool((slopes[:, stays] != 0).all())
    other = trained("without the optimizer's state")[0]
    assert not torch.allclose(other["2.weight"], found["2.weight"], rtol=0.0, atol=1e-4)  # control


@pytest.mark.parametrize("name", ["convolutional", "residual"])
def test_once_gates_are_settled_training_goes_on_as_with_them_closed(name):
    case = CASES[name]

    def trained(is_removed):
        model = case.model().train()

        def rebuild(left):
            made = Objective(left, Guide(left, "map").double())
            return made, make_optimizer("adam", made, 1e-2)

        made, optimizer = rebuild(model)
        q = made.guide.gates
        with torch.no_grad():
            q.theta.copy_((torch.arange(len(q.theta)) % 3 != 1).double())
            if case.layers:
                q.theta[-2:] = torch.tensor([0.0, 1.0])
        q.absorbed |= q.theta == 0
        q.settled.fill_(True)
        x, y = case.inputs(8), torch.arange(8) % 2
        for number in range(5):
            if number == 2 and is_removed:
                made, optimizer = remove(made, optimizer, rebuild, q.by_site(q.absorbed))
                assert bool(made.guide.gates.settled) and bool((made.guide.gates.theta == 1).all())
            step(made, optimizer, x, y)
        made.eval()
        with torch.no_grad():
            weights = made.model.weights_at(made.guide.means())
            return torch.func.functional_call(made.model.network, weights, (x,)), made

    wanted, closed = trained(False)
    found, removed = trained(True)
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-10 * float(wanted.std()))
    count = [sum(p.numel() for p in one.model.network.parameters()) for one in (removed, closed)]
    assert count[0] < count[1] and float(wanted.std()) > 1e-3
    with torch.no_grad():
        for layer in removed.model.network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.add_(0.05)
        weights = removed.model.weights_at(removed.guide.means())
        moved = torch.func.functional_call(removed.model.network, weights, (case.inputs(8),))
    assert float((moved - wanted).abs().max()) > 1e-6 * float(wanted.std())  # control: statistics count


def test_latents_whose_entries_cannot_leave_with_units_are_refused():
    def declared(prior):
        return bp.BayesianNetwork(
            PERCEPTRON.make(), {"2.weight": prior}, data_size=9, gates=bp.UnitGates(kappa=0.1),
            example_input=torch.zeros(1, 3),
        )  # fmt: skip

    with pytest.raises(ValueError, match=r"2.weight: the latent z is declared per block.*Gating\(remove=None\)"):
        check_removable(declared(bp.SpikeAndSlab(level="block")))
    check_removable(declared(bp.SpikeAndSlab(level="output")))  # control
