"""Drawn outputs: the distribution that drawn weights give every example, where it is exact, and nowhere else."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import bayesprune as bp
from bayesprune.inference.execution.objective_graph import trace
from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.guides.functional import RecordNoise
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.local_reparameterisation import LocalReparameterisation, OutputMoments
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.training.optimizers import make_optimizer
from bayesprune.models.masks.mask_way import Masks
from tests.oracles.plain_path import distance, noise_at, objective_of, on_graph, on_plain

N = 5_000


def drawn(shape=(3, 4)):
    """A drawn weight and its moments."""
    torch.manual_seed(0)
    mean, sd = torch.randn(shape).double(), (torch.randn(shape).double() * 0.3 - 1.0).exp()
    value = mean + sd * torch.randn(shape).double()
    return value, OutputMoments("w", value, mean, sd.square())


def test_outputs_have_the_mean_and_variance_of_drawn_weights_and_are_independent_between_examples():
    weight, moments = drawn()
    x = torch.tensor([[1.0, -2.0, 0.5, 0.0], [1.0, -2.0, 0.5, 0.3]]).double()
    bias = torch.tensor([0.1, 0.2, 0.3]).double()
    with LocalReparameterisation([moments]) as mode:
        outputs = torch.stack([functional.linear(x, weight, bias) for _ in range(N)])
    assert mode.used[:1] == ["w"]
    variance = x.square() @ moments.variance.T
    error = (outputs.mean(0) - (x @ moments.mean.T + bias)).abs() / (variance / N).sqrt()
    assert float(error.max()) < 4.5
    assert float((outputs.var(0) / variance - 1.0).abs().max()) < 4.5 * (2.0 / N) ** 0.5
    centred = (outputs - outputs.mean(0)) / variance.sqrt()
    assert float((centred[:, 0] * centred[:, 1]).mean(0).abs().max()) < 4.5 * N**-0.5
    weights = moments.mean + moments.variance.sqrt() * torch.randn(N, 3, 4).double()
    shared = weights @ x.T - (moments.mean @ x.T)
    shared = shared / variance.sqrt().T
    assert float((shared[..., 0] * shared[..., 1]).mean(0).min()) > 0.9  # draws of weights tie the examples together


@pytest.mark.parametrize(
    "call",
    [
        lambda w: torch.ones(2, 4).double() @ w.T,
        lambda w: functional.linear(torch.ones(2, 4).double(), w.clone()),
        lambda w: functional.linear(w[:, :1] * torch.ones(3, 4).double(), w),
        lambda w: torch.cat([w, w]),
        lambda w: functional.conv1d(torch.ones(2, 4, 6).double(), w.unsqueeze(-1)),
        lambda w: w.norm(),
        lambda w: float(w[0, 0]),
    ],
)
def test_what_was_not_seen_before_is_refused_as_the_tensor_may_be_a_mean(call):
    weight, moments = drawn()
    with LocalReparameterisation([moments]), pytest.raises(ValueError, match="does something else with w than"):
        call(weight)


def test_what_only_looks_at_a_tensor_is_let_pass():
    weight, moments = drawn()
    with LocalReparameterisation([moments]):
        assert (weight.shape, weight.size(0), weight.dtype, weight.dim(), len(weight)) == (
            (3, 4),
            3,
            torch.float64,
            2,
            3,
        )


def test_an_example_of_zeros_has_a_gradient():
    weight, moments = drawn()
    moments.variance.requires_grad_()
    with LocalReparameterisation([moments]):
        outputs = functional.linear(torch.zeros(2, 4).double(), weight)
    outputs.sum().backward()
    assert torch.equal(moments.variance.grad, torch.zeros(3, 4).double())


def small(**how):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    priors = {"0.weight": bp.Gaussian(0.5), "2.weight": bp.HALO()}
    model = bp.BayesianNetwork(network, priors, data_size=40)
    objective = Objective(model, Guide(model, "meanfield"), Gradient(**how)).double()
    with torch.no_grad():
        for family in objective.guide.families:
            family.log_scale.add_(1.5)
    return objective, torch.randn(20, 3).double(), torch.randint(2, (20,))


def gradients(objective, x, y, draws):
    torch.manual_seed(0)
    parameters = list(objective.guide.parameters())
    return torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(objective(x, y), parameters)]) for _ in range(draws)]
    )


def test_the_gradient_has_the_same_mean_and_less_variance():
    plain, local = (gradients(*small(local_reparameterisation=on), draws=500) for on in (False, True))
    error = (plain.var(0) / len(plain) + local.var(0) / len(local)).sqrt()
    z = (plain.mean(0) - local.mean(0)).abs() / error
    assert float(z.max()) < 4.5
    assert float(((plain.mean(0) + plain.std(0) - local.mean(0)).abs() / error).min()) > 4.5  # the comparison can fail
    assert float(local[:, :12].var(0).sum() / plain[:, :12].var(0).sum()) < 0.7


# -- which tensors --------------------------------------------------------------------------------------------------

IN = 24


class Net(nn.Module):
    """A layer of 24 inputs, used as `run` says, and one behind it."""

    def __init__(self, run, layer=None):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.run = layer or nn.Linear(IN, IN), nn.Linear(IN, 3), run

    def forward(self, x):
        return self.two(torch.tanh(self.run(self, x)))


def cell(self, x):
    weight = torch.cat([self.one.weight, self.one.weight])
    return functional.linear(x, weight)[:, :IN]


def of_a_part(self, x):
    return functional.linear(x[:, : IN // 2], self.one.weight[:, : IN // 2])


USES = {
    "a layer": (lambda self, x: self.one(x), True),
    "twice": (lambda self, x: self.one(self.one(x)), False),
    "a product": (lambda self, x: x @ self.one.weight.T, False),
    "a copy": (lambda self, x: functional.linear(x, self.one.weight * 1.0), False),
    "a norm beside it": (lambda self, x: self.one(x) / self.one.weight.norm(), False),
    "both": (lambda self, x: self.one(x) + x @ self.one.weight, False),
    "joined": (cell, False),
    "of a part": (of_a_part, False),
    "over time": (lambda self, x: self.one(x.unsqueeze(1).expand(-1, 2, -1)).mean(1), False),
    "over time, flat": (lambda self, x: self.one(x.repeat(2, 1))[: len(x)], False),
    "not at all": (lambda self, x: x, False),
    "its shape": (lambda self, x: self.one(x) * self.one.weight.shape[0], True),
}


def gated(run=USES["a layer"][0], prior=None, **how):
    priors = {"*.weight": bp.SpikeAndSlab() if prior is None else prior}
    return objective_of(priors, None, Net(run), spread=0.1, **how)


def data(count=8):
    torch.manual_seed(2)
    return torch.randn(count, IN).double(), torch.randint(3, (count,))


@pytest.mark.parametrize("name", USES)
def test_a_tensor_draws_outputs_where_the_network_uses_it_as_one_layer_and_nothing_else(name):
    run, takes = USES[name]
    objective, x = gated(run), data()[0]
    state = torch.get_rng_state()
    objective.outputs_drawn.forms(x)
    assert torch.equal(torch.get_rng_state(), state)  # a look takes no random numbers
    objective.terms(*data()).loss.backward()
    assert objective.outputs_drawn.names == (("one.weight", "two.weight") if takes else ("two.weight",))
    with RecordNoise() as record:
        objective.terms(*data())
    weights = [noise for noise in record.noise if noise.numel() >= IN * IN]
    assert bool(weights) != takes


def test_recurrent_cells_keep_their_draws():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.last = nn.RNNCell(IN, IN), nn.Linear(IN, 3)

        def forward(self, x):
            return self.last(self.cell(x))

    network = Recurrent()
    objective = objective_of({"*weight*": bp.SpikeAndSlab()}, None, network)
    objective.terms(*data())
    assert objective.outputs_drawn.names == ("last.weight",)


def test_by_default_only_gates_leave_their_draw_and_with_true_what_is_normal_too():
    def found(asked):
        network = nn.Sequential(
            nn.Linear(IN, IN), nn.Linear(IN, IN), nn.Linear(IN, IN), nn.Linear(IN, IN), nn.Linear(IN, 3)
        )
        priors = {
            "0.weight": bp.Gaussian(), "1.weight": bp.Horseshoe(), "2.weight": bp.SpikeAndSlab(), "3.weight": bp.HALO(),
            "4.weight": bp.SpikeAndSlab(level="output"),
        }  # fmt: skip
        objective = objective_of(priors, None, network, local_reparameterisation=asked)
        objective.terms(*data())
        return objective.outputs_drawn.names

    assert found(None) == ("2.weight",)
    assert found(True) == ("0.weight", "1.weight", "2.weight", "4.weight")  # HALO is a MAP by default
    assert found(False) == ()


def test_a_network_that_changes_its_mind_is_refused():
    objective = gated(lambda self, x: self.one(x) if not self.changed else x @ self.one.weight)
    objective.model.network.changed = False
    objective.terms(*data())
    objective.model.network.changed = True
    with pytest.raises(ValueError, match="fit with local_reparameterisation=False"):
        objective.terms(*data())


def test_masks_of_ones_and_zeros_are_followed_and_other_ways_keep_draws():
    mask = torch.rand(IN, IN) < 0.5
    objective = gated()
    objective.model.ways.append(Masks({"one.weight": mask}))
    objective.model.double()
    objective.terms(*data())
    assert objective.outputs_drawn.names == ("one.weight", "two.weight")

    class Halved(Masks):
        def weights(self, weights, values, network):
            return {**weights, "one.weight": 0.5 * weights["one.weight"]}

    objective = gated()
    objective.model.ways.append(Halved({"one.weight": mask}))
    objective.terms(*data())
    assert objective.outputs_drawn.names == ("two.weight",)


def test_gates_of_units_keep_draws_by_default_and_go_with_drawn_outputs_where_asked():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(IN, IN), nn.ReLU(), nn.Linear(IN, 3)).double()
    x, y = data()
    for asked, wanted in ((None, ()), (True, ("0.weight", "2.weight"))):
        model = bp.BayesianNetwork(
            copy.deepcopy(network), {"*.weight": bp.SpikeAndSlab()}, data_size=50,
            gates=bp.UnitGates(kappa=0.01), example_input=x[:2],
        )  # fmt: skip
        objective = Objective(model, Guide(model).double(), Gradient(local_reparameterisation=asked)).train()
        objective.terms(x, y).loss.backward()
        assert objective.outputs_drawn.names == wanted


# -- executions -----------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A convolution, a layer over positions, and one on a row an example."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.time, self.last = nn.Conv2d(3, 4, 3), nn.Linear(16, IN), nn.Linear(IN, 3)

    def forward(self, x):
        h = functional.relu(self.conv(x)).flatten(2)
        return self.last(functional.relu(self.time(h)).mean(1))


BOTH = {
    "gates": (bp.SpikeAndSlab, None, {}),
    "gates apart": (bp.SpikeAndSlab, "meanfield", {}),
    "particles": (bp.SpikeAndSlab, None, {"particles": 3}),
    "a scale": (bp.Horseshoe, None, {"local_reparameterisation": True}),
    "shared gates": (lambda: bp.SpikeAndSlab(level="output"), None, {"local_reparameterisation": True}),
    "a term from the draw": (
        bp.Gaussian,
        "meanfield",
        {"local_reparameterisation": True, "sticking_the_landing": True},
    ),
}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("mixed", [False, True])
def test_the_graph_is_the_plain_execution(name, mixed):
    prior, guide, how = BOTH[name]
    how = {**how, "local_reparameterisation": "approximate"} if mixed else how
    network = Mixed() if mixed else Net(USES["a layer"][0])
    objective = objective_of({"*.weight": prior()}, guide, network, spread=0.1, **how)
    x, y = (torch.randn(8, 3, 6, 6).double(), data()[1]) if mixed else data()
    traced = trace(objective, x, y)
    assert len(objective.outputs_drawn.names) == (3 if mixed else 2)
    plain, graph = on_plain(objective, x, y, 3), on_graph(traced, objective, x, y, noise_at(traced, 3))
    for one, other in ((plain.parts, graph.parts), (plain.gradients, graph.gradients)):
        assert max(distance(one[key], other[key]) for key in one) < 1e-9
    assert all(traced.reads) or "draw" in name
    if name == "gates" and not mixed:
        assert [tuple(each.shape) for each in traced.noise] == [(8, IN), (8, 3)]  # no weight is drawn


def test_a_dense_gradient_is_that_of_drawn_weights():
    objective = gated()
    stepper = Stepper(objective, make_optimizer("adam", objective, 1e-9), 10, "plain")
    with RecordNoise() as record:
        _, found = stepper.step(*data(), 1.0, weight_gradient=True)
    assert max(noise.numel() for noise in record.noise) >= IN * IN
    assert all(float(gradient.abs().max()) > 0 for gradient in found.values())
    with RecordNoise() as record:
        stepper.step(*data(), 1.0)
    assert max(noise.numel() for noise in record.noise) == 8 * IN


def test_in_convolutions_covariances_between_places_are_dropped_as_the_page_says():
    """Sums over places vary less than they should: by their number where all see the same input."""
    torch.manual_seed(0)
    weight = torch.zeros(1, 1, 1).double()
    moments = OutputMoments("w", weight, weight.clone(), torch.ones_like(weight))
    x = torch.ones(4000, 1, 2).double()
    with LocalReparameterisation([moments]):
        sums = functional.conv1d(x, weight).sum(-1).flatten()
    drawn = torch.randn(4000).double() * 2.0
    assert float(sums.var()) == pytest.approx(2.0, rel=0.1) and float(drawn.var()) == pytest.approx(4.0, rel=0.1)


def test_a_fit_with_it_learns():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    network = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    model = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian()}, data_size=len(x))
    fit = bp.fit(model, (x, y), epochs=15, learning_rate=1e-2, local_reparameterisation=True)
    assert fit.settings["local_reparameterisation"] is True
    assert fit.settings["outputs_drawn"] == ["0.weight", "2.weight"]
    assert float(fit.trace["expected_log_likelihood"][0, -1]) / len(x) > -0.5
