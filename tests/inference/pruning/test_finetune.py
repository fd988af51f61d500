"""Fine-tuning: zeros are held, the loss falls, nothing else changes."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.pruning.finetune import finetune
from bayesprune.inference.pruning.prune import prune
from bayesprune.inference.training.fit import fit
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.likelihoods.labels import Categorical
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.units.compact import compact

SIZE = 120
torch.manual_seed(5)
X = torch.randn(SIZE, 6)
Y = (X[:, 0] + X[:, 1] > 0).long() + (X[:, 2] > 1).long()


def fitted(network, x=X, y=Y, likelihood=None):
    names = [name for name, p in network.named_parameters() if p.ndim > 1]
    model = BayesianNetwork(network, dict.fromkeys(names, Gaussian()), likelihood or Categorical(), len(x))
    return fit(model, (x, y), "map", steps=3, batch_size=40, device="cpu")


@pytest.fixture(scope="module")
def pruned():
    torch.manual_seed(6)
    network = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 3))
    return dataclasses.replace(prune(fitted(network), sparsity=0.6), likelihood=Categorical())


@pytest.fixture(scope="module")
def compacted():
    """A compact network that has zeros inside its tensors and has lost units."""
    torch.manual_seed(7)
    network = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    result = prune(fitted(network), sparsity=0.5)
    with torch.no_grad():
        result.network[2].weight[:, :2] = 0.0
    made = compact(result.network, X[:2])
    assert len(made.network[0].weight) <= 10 and bool((made.network[0].weight == 0).any())
    return dataclasses.replace(made, likelihood=Categorical())


def nll(network, x=X, y=Y):
    with torch.no_grad():
        return float(nn.functional.cross_entropy(network.eval()(x), y))


def zeros(network):
    return {name: p.detach() == 0 for name, p in network.named_parameters() if p.ndim > 1}


def with_momentum_and_decay(groups):
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.1)


class Drifting(torch.optim.Optimizer):
    """Moves every parameter, whatever its gradient."""

    def __init__(self, groups):
        super().__init__(groups, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(group["lr"])


@pytest.mark.parametrize("kind", ["pruned", "compacted"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", with_momentum_and_decay, Drifting])
def test_zeros_are_zero_after_every_step(request, kind, optimizer):
    result = request.getfixturevalue(kind)
    expected = {name: ~mask for name, mask in result.masks.items()} if kind == "pruned" else zeros(result.network)
    steps = []

    def watched(groups):
        chosen = optimizer if callable(optimizer) else getattr(torch.optim, {"adam": "Adam", "sgd": "SGD"}[optimizer])
        made = chosen(groups)
        made.register_step_pre_hook(lambda *_: steps.append([p.detach().clone() for p in groups[0]["params"]]))
        return made

    tuned = finetune(result, (X, Y), 3, optimizer=watched, batch_size=25, device="cpu")
    assert len(steps) == 15
    names = [name for name, _ in tuned.network.named_parameters()]
    for parameters in [*steps, list(tuned.network.parameters())]:
        values = dict(zip(names, parameters, strict=True))
        for name, where in expected.items():
            assert not values[name][where].any()
    assert sum(int(where.sum()) for where in expected.values()) > 20
    moved = dict(tuned.network.named_parameters())
    for name, where in expected.items():  # control: what is not held moves
        assert bool((moved[name] != result.network.get_parameter(name))[~where].any()), name


def test_without_holding_the_zeros_would_be_filled(pruned, monkeypatch):
    monkeypatch.setattr("bayesprune.inference.pruning.finetune._held", lambda network, result: [])
    tuned = finetune(pruned, (X, Y), 3, device="cpu")
    filled = {
        name: float((tuned.network.get_parameter(name)[~mask] != 0).float().mean())
        for name, mask in pruned.masks.items()
    }
    assert min(filled.values()) > 0.9


@pytest.mark.parametrize("kind", ["pruned", "compacted"])
def test_the_loss_falls_and_the_input_is_left_as_it_was(request, kind):
    result = request.getfixturevalue(kind)
    before, mode = copy.deepcopy(result.network.state_dict()), result.network.training
    tuned = finetune(result, (X, Y), 30, learning_rate=0.02, device="cpu")
    assert type(tuned) is type(result)
    assert nll(tuned.network) < 0.8 * nll(result.network)
    assert all(torch.equal(before[name], value) for name, value in result.network.state_dict().items())
    assert result.network.training == mode and not tuned.network.training
    assert all(p.grad is None for p in result.network.parameters())
    assert result.report.finetuned is None
    for field in ("masks", "plan"):
        assert getattr(tuned, field, None) is getattr(result, field, None)


def test_it_maximises_the_likelihood():
    """Without hidden layers and noise the optimum is that of least squares on the weights that are left."""
    torch.manual_seed(8)
    x = torch.randn(200, 4, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64) + 0.3 * torch.randn(200, dtype=torch.float64)
    network = nn.Sequential(nn.Linear(4, 1)).double()
    fitted_ = fit(BayesianNetwork(network, {"0.weight": Gaussian()}, Normal(), 200), (x, y), "map", steps=2,
                  precision="float64", device="cpu", standardise=False)  # fmt: skip
    result = dataclasses.replace(prune(fitted_, sparsity=0.5), likelihood=Normal())
    tuned = finetune(result, (x, y), 1500, learning_rate=0.1, batch_size=200, device="cpu")
    kept = result.masks["0.weight"][0]
    design = torch.cat([x[:, kept], torch.ones(200, 1, dtype=torch.float64)], dim=1)
    expected = torch.linalg.lstsq(design, y).solution
    found = torch.cat([tuned.network[0].weight[0, kept], tuned.network[0].bias]).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # The scale that the likelihood learns is the root mean square of the residuals; the given one stays at 1.
    noise = float((design @ expected - y).square().mean().sqrt())
    assert float(tuned.likelihood.scale.detach()) == pytest.approx(noise, rel=1e-3)
    assert float(result.likelihood.scale.detach()) == 1.0


def test_a_seed_gives_the_same_network_and_leaves_the_random_state_alone(pruned):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    one = finetune(pruned, (X, Y), 2, seed=1, device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    again, other = (finetune(pruned, (X, Y), 2, seed=seed, device="cpu") for seed in (1, 2))
    a, b, c = (tuned.network.state_dict() for tuned in (one, again, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["0.weight"], c["0.weight"])


def test_the_report_says_how_and_counts_again(pruned):
    tuned = finetune(pruned, (X, Y), 5, validation=(X[:40], Y[:40]), device="cpu")
    assert tuned.report.finetuned.startswith("5 epochs, adam, learning rate 0.001, training nll ")
    assert "validation nll" in tuned.report.finetuned and "validation accuracy" in tuned.report.finetuned
    assert tuned.report.nonzero == pruned.report.nonzero and tuned.report.rule == pruned.report.rule
    again = finetune(tuned, (X, Y), 1, optimizer="sgd", learning_rate=0.01, device="cpu")
    assert again.report.finetuned.startswith(tuned.report.finetuned + "; then 1 epoch, sgd, learning rate 0.01")


def test_batch_normalisation_follows_and_a_batch_of_one_is_left_out(pruned):
    tuned = finetune(pruned, (X[:41], Y[:41]), 2, batch_size=20, device="cpu")  # 20, 20 and 1
    old, new = (result.network[1] for result in (pruned, tuned))
    assert int(new.num_batches_tracked - old.num_batches_tracked) == 4
    assert not torch.equal(old.running_mean, new.running_mean)
    assert "followed" not in pruned.report.batch_normalisation
    assert tuned.report.batch_normalisation.endswith(", and followed the fine-tuning since")


@pytest.mark.parametrize("wrap", [lambda d: TensorDataset(*d), lambda d: DataLoader(TensorDataset(*d), 32)])
def test_data_sets_and_loaders_are_taken(pruned, wrap):
    assert nll(finetune(pruned, wrap((X, Y)), 10, learning_rate=0.02, device="cpu").network) < nll(pruned.network)


def test_frozen_parameters_stay(pruned):
    result = dataclasses.replace(pruned, network=copy.deepcopy(pruned.network))
    result.network[4].requires_grad_(False)
    tuned = finetune(result, (X, Y), 2, device="cpu")
    assert torch.equal(tuned.network[4].weight, pruned.network[4].weight)
    assert not torch.equal(tuned.network[0].weight, pruned.network[0].weight)


def test_the_likelihood_can_be_given(compacted):
    bare = dataclasses.replace(compacted, likelihood=None)
    with pytest.raises(ValueError, match="has no likelihood: pass one"):
        finetune(bare, (X, Y), 1)
    assert finetune(bare, (X, Y), 1, likelihood=Categorical(), device="cpu").likelihood.name == "categorical"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"optimizer": "adamw"}, "optimizer 'adamw' is unknown"),
        ({"schedule": "linear"}, "schedule 'linear' is unknown"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"device": "abacus"}, "device 'abacus' is not available"),
        ({"data": (X[:, :5], Y)}, r"does not take inputs of shape \(5,\)"),
        ({"data": (X, Y[:-1])}, "120 inputs and 119 targets"),
        ({"data": (X, Y + 7)}, "labels run from 7"),
        ({"data": (X / 0.0, Y)}, "NaN or infinity"),
        ({"data": X}, "data must be a tuple"),
        ({"data": (X[:1], Y[:1])}, "batch normalisation needs two or more"),
        ({"validation": (X, Y + 7)}, "validation data: labels run from 7"),
        ({"validation": X}, "validation must be a tuple"),
        ({"likelihood": "categorical"}, "takes a likelihood such as Categorical"),
        ({"result": nn.Linear(2, 2)}, "takes what prune or compact returned, not a Linear"),
    ],
)
def test_bad_input_is_told_in_one_sentence(pruned, change, says):
    arguments = {"result": pruned, "data": (X, Y), "epochs": 1, "device": "cpu", **change}
    with pytest.raises(ValueError, match=says) as caught:
        finetune(arguments.pop("result"), arguments.pop("data"), arguments.pop("epochs"), **arguments)
    assert "\n" not in str(caught.value)


def test_nothing_to_train_is_told(pruned):
    result = dataclasses.replace(pruned, network=copy.deepcopy(pruned.network).requires_grad_(False))
    with pytest.raises(ValueError, match="nothing to fine-tune"):
        finetune(result, (X, Y), 1, device="cpu")


def test_a_loss_that_is_not_finite_is_told(compacted):
    with warnings.catch_warnings(), pytest.raises(NonFiniteLossError, match="lower learning_rate"):
        finetune(compacted, (X, Y), 20, learning_rate=1e30, optimizer="sgd", device="cpu")
