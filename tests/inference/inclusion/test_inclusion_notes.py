"""Notes where inclusion probabilities are read: they stand wherever one may be far off, and on no orthogonal design."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.inference.guides.identified import regression_tensor
from bayesprune.inference.inclusion.correlated_inputs import chooses_inputs, largest_correlation
from bayesprune.inference.inclusion.inclusion_notes import inclusion_notes, meaning_of, regression_of
from tests.oracles.correlated_regressions import correlated_problems, orthogonal_problems, random_problem
from tests.oracles.spike_and_slab_reference import RegressionProblem, enumerate_posterior, paired_fixed_point


def line_fit(x, y, prior=None, restarts=1, steps=300, **options):
    torch.manual_seed(0)
    line = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Flatten(0))
    bnn = bp.BayesianNetwork(line, {"0.weight": prior or bp.SpikeAndSlab(0.25, 1.0)}, bp.Normal(1.0), 80)
    options = {"learning_rate": 1e-2, "batch_size": 80, "device": "cpu"} | options
    return bp.fit(bnn, x if y is None else (x, y), restarts=restarts, steps=steps, **options)


def correlated_data(correlation, rows=80):
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(np.column_stack([np.ones(rows), rng.standard_normal((rows, 4))]))
    x = basis[:, 1:] * np.sqrt(rows)
    x[:, 1] = correlation * x[:, 0] + np.sqrt(1 - correlation**2) * x[:, 1]
    y = x @ np.array([1.0, 0.0, 0.5, 0.0]) + rng.standard_normal(rows)
    return torch.tensor(x).float(), torch.tensor(y).float()


def found_in(problem):
    return largest_correlation(torch.tensor(problem.x))


def test_where_the_guides_optimum_is_off_by_more_than_a_tenth_the_inputs_are_said_to_correlate():
    rng, off, silent = np.random.default_rng(11), 0, 0
    for _ in range(250):
        problem = random_problem(rng)
        pips = paired_fixed_point(problem, start=0.9, sweeps=300)[0]
        found = found_in(problem)
        if np.abs(pips - enumerate_posterior(problem).pips).max() > 0.1:
            off += 1
            assert found is not None
        silent += found is None
    assert off > 20  # the control: there is something to be said
    assert silent > 40  # and it does not always speak


@pytest.mark.parametrize("name", list(correlated_problems()))
def test_the_six_correlated_regressions_are_noted(name):
    problem = correlated_problems()[name]
    pips = paired_fixed_point(problem, start=0.9, sweeps=500)[0]
    assert np.abs(pips - enumerate_posterior(problem).pips).max() > 0.1
    assert found_in(problem) is not None


@pytest.mark.parametrize("name", list(orthogonal_problems()))
def test_orthogonal_designs_are_not(name):
    problem = orthogonal_problems()[name]
    pips = paired_fixed_point(problem, start=0.9, sweeps=500)[0]
    assert np.abs(pips - enumerate_posterior(problem).pips).max() < 1e-6
    assert found_in(problem) is None


def test_two_inputs_that_matter_together_and_were_both_left_out_are_noted():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 4))
    x[:, 1] = 0.9 * x[:, 0] + np.sqrt(1 - 0.81) * x[:, 1]
    x = (x - x.mean(0)) / x.std(0)
    problem = RegressionProblem(x, x @ np.array([0.8, -0.8, 0.0, 0.0]) + rng.standard_normal(300), 1.0, 1.0, 0.1)
    pips, exact = paired_fixed_point(problem, start=0.1, sweeps=500)[0], enumerate_posterior(problem).pips
    assert pips.max() < 0.05 and exact[:2].min() > 0.9  # the guide has found nothing, and there is something
    assert found_in(problem)["inputs"] == [0, 1]


def test_an_input_that_only_all_others_together_explain_is_found():
    rng = np.random.default_rng(0)
    others = rng.standard_normal((400, 12))
    x = torch.tensor(np.column_stack([others, others.sum(1) + 0.3 * rng.standard_normal(400)]))
    assert largest_correlation(x[:, :12]) is None
    found = largest_correlation(x)
    assert found is not None
    assert found["explained"] > 0.95


def test_a_fit_of_correlated_inputs_says_so_wherever_probabilities_are_read(tmp_path):
    x, y = correlated_data(0.95)
    fit = line_fit(x, y)
    (note,) = inclusion_notes(fit)
    assert note.startswith("inputs 0 and 1 correlate by 0.95")
    assert "fit with restarts=8" in note
    assert fit.inclusion_probabilities().attrs["notes"] == note
    assert f"note: {note}" in str(bp.layer_table(fit))
    assert note in fit.summary()["notes"]
    loaded = bp.Fit.load(fit.save(tmp_path / "fit"), fit.model)
    assert inclusion_notes(loaded) == [note]


def test_a_fit_of_orthogonal_inputs_says_nothing():
    x, y = correlated_data(0.0)
    fit = line_fit(x, y, restarts=3, steps=700, learning_rate=2e-2)
    assert inclusion_notes(fit) == []
    assert "notes" not in fit.inclusion_probabilities().attrs
    assert "note:" not in str(bp.layer_table(fit))
    assert bp.agreement(fit, x).notes == ()


def test_restarts_that_disagree_say_about_which_weight_and_agreement_says_it_too():
    x, y = correlated_data(0.0)
    x[:, 1] = x[:, 0]
    fit = line_fit(x, y, restarts=4, steps=700, learning_rate=2e-2)
    apart, correlated = inclusion_notes(fit)
    assert apart.startswith("4 restarts disagree about 2 of 4 inclusion probabilities, most about 0.weight[0, ")
    assert "read fit.combined(), which weighs the restarts" in correlated
    assert apart in bp.agreement(fit, x).notes
    assert f"note: {apart}" in str(bp.agreement(fit, x))


class VectorReads(nn.Module):
    """Four hidden units, read by a vector."""

    def __init__(self):
        super().__init__()
        self.fc, self.v = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x):
        return torch.tanh(self.fc(x)) @ self.v


class Tied(nn.Module):
    """Hidden units read by the weights that make them."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return torch.tanh(self.fc(x)) @ self.fc.weight


class Highest(nn.Module):
    """The largest of three outputs."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x).amax(1)


class Squares(nn.Module):
    """Inputs with their squares, made inside."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return torch.exp(0.1 * self.fc(torch.cat([x, x**2], 1)))


def declared(network, noise=1.0):
    return bp.BayesianNetwork(network, {"fc.weight": bp.SpikeAndSlab(0.25, 1.0)}, bp.Normal(noise), 80)


@pytest.mark.parametrize("kind", [VectorReads, Tied, Highest])
def test_outputs_of_a_layer_that_are_tied_or_pooled_are_hidden_units(kind):
    model = declared(kind())
    assert regression_tensor(model, torch.randn(6, 4)) is None
    assert regression_tensor(declared(Squares()), torch.randn(6, 4)) == "fc.weight"  # the control


@pytest.mark.parametrize("rows", [1, 3])
def test_a_linear_layer_of_several_outputs_in_units_of_its_own_is_a_regression(rows):
    x = torch.randn(60, 4) * 3.0 + 1.0
    y = (x[:, :1].expand(60, rows) * torch.tensor([1.0, 50.0, 0.1][:rows])).squeeze(-1)
    network = nn.Sequential(nn.Linear(4, rows), nn.Flatten(0) if rows == 1 else nn.Identity())
    model = bp.BayesianNetwork(network, {"0.weight": bp.SpikeAndSlab(0.25, 1.0)}, bp.Normal(), 60)
    fit = bp.fit(model, (x, y), steps=5, device="cpu")
    assert fit.settings["standardised"]["targets"]
    assert regression_of(fit) == "0.weight"


def test_a_frozen_network_before_the_layer_leaves_a_regression_and_one_behind_it_none():
    body, head = nn.Linear(4, 5), nn.Linear(5, 2)
    for parameter in body.parameters():
        parameter.requires_grad_(False)
    priors = {"2.weight": bp.SpikeAndSlab()}
    model = bp.BayesianNetwork(nn.Sequential(body, nn.Tanh(), head), priors, bp.Normal(1.0), 10)
    assert regression_tensor(model, torch.randn(6, 4)) == "2.weight"
    last = nn.Linear(5, 2)
    for parameter in last.parameters():
        parameter.requires_grad_(False)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), last)
    model = bp.BayesianNetwork(network, {"0.weight": bp.SpikeAndSlab()}, bp.Normal(1.0), 10)
    assert regression_tensor(model, torch.randn(6, 4)) is None


def test_features_that_the_network_makes_are_what_correlates():
    x = torch.rand(80, 4) + 1.0  # squares go with their inputs
    fit = bp.fit(declared(Squares()), (x, torch.randn(80, 2)), steps=5, device="cpu")
    (note,) = inclusion_notes(fit)
    first, second = fit.settings["correlated_inputs"][0]["inputs"]
    assert abs(first - second) == 4
    assert note.startswith(f"inputs {first} and {second} correlate by ")


class ReadsOnce:
    """Batches for so many passes, and an error for whoever asks for more."""

    def __init__(self, x, y, passes):
        self.batches, self.left = [(x[:40], y[:40]), (x[40:], y[40:])], passes

    def __len__(self):
        return 2

    def __iter__(self):
        if not self.left:
            raise OSError("the tape has been rewound")
        self.left -= 1
        return iter(self.batches)


def test_data_that_cannot_be_read_again_cost_the_note_and_not_the_fit():
    x, y = correlated_data(0.95)
    for passes in range(1, 20):  # as many as the fit itself asks for
        try:
            fit = line_fit(ReadsOnce(x, y, passes), None, steps=4)
        except OSError:
            continue
        break
    assert passes < 19
    assert inclusion_notes(fit) == []
    assert inclusion_notes(line_fit(ReadsOnce(x, y, 19), None, steps=4)) != []


def test_data_of_a_loader_are_looked_at_too():
    x, y = correlated_data(0.95)
    loader = DataLoader(TensorDataset(x, y), 20, shuffle=True)
    assert inclusion_notes(line_fit(loader, None, steps=20)) == inclusion_notes(line_fit(x, y, steps=20)) != []


@pytest.mark.parametrize(
    "prior",
    [bp.Gaussian(), bp.Laplace(), bp.SpikeAndSlab(level="output"), bp.GroupHorseshoe()],
    ids=lambda p: repr(p)[:12],
)
def test_a_prior_that_does_not_choose_among_inputs_has_no_such_note(prior):
    x, y = correlated_data(0.95)
    fit = line_fit(x, y, prior, steps=20)
    assert chooses_inputs(fit.model.priors["0.weight"]) is False
    assert inclusion_notes(fit) == []


def test_a_map_which_has_no_probabilities_has_none():
    x, y = correlated_data(0.95)
    assert inclusion_notes(line_fit(x, y, bp.HALO(kappa=1.0), steps=20)) == []


def test_restarts_without_an_elbo_are_not_said_to_be_weighed_by_it():
    x, y = correlated_data(0.95)
    fit = line_fit(x, y, bp.L0HardConcrete(), steps=20, restarts=2)
    notes = inclusion_notes(fit)
    assert notes
    assert not any("combined" in note for note in notes)


def test_the_input_that_others_explain_is_named():
    rng = np.random.default_rng(0)
    others = rng.standard_normal((400, 12))
    noise = rng.standard_normal((400, 2))
    x = torch.tensor(np.column_stack([others, others.sum(1) + 0.3 * noise[:, 0], noise[:, 1]]))
    assert largest_correlation(x)["explained_input"] == 12


def test_probabilities_of_hidden_units_are_not_compared():
    torch.manual_seed(0)
    x, y = correlated_data(0.95)
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0))
    bnn = bp.BayesianNetwork(network, {"*.weight": bp.SpikeAndSlab()}, bp.Normal(1.0), len(x))
    fit = bp.fit(bnn, (x, y), steps=30, restarts=2, device="cpu")
    assert inclusion_notes(fit) == []
    assert "correlated_inputs" not in fit.settings


def test_a_shrinkage_probability_says_what_it_is_not():
    x, y = correlated_data(0.0)
    fit = line_fit(x, y, bp.Horseshoe(0.1), steps=50)
    said = meaning_of(fit.model.priors["0.weight"].hierarchy)
    assert said is not None
    assert "no weight is zero under this prior" in said
    assert fit.inclusion_probabilities()["0.weight"].attrs["meaning"] == said
    assert f"included: {said}" in str(bp.layer_table(fit))
    atoms = line_fit(x, y, steps=20)
    assert "meaning" not in atoms.inclusion_probabilities()["0.weight"].attrs
    assert meaning_of(bp.SpikeAndSlab()) is None
