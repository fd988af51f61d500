"""LowRank: its start, its scale, its gradient by hand, the ranks that it learns, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.restart import Restart
from bayesprune.models.language.tensor_prior import TensorPrior

DOUBLE = torch.float64


def model_of(prior, rows=9, columns=6, dtype=DOUBLE, data_size=40):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(columns, rows)).to(dtype)
    return bp.BayesianNetwork(network, {"0.weight": prior}, data_size=data_size).to(dtype)


def started(model, choice="map"):
    guide = Guide(model, choice).to(next(model.network.parameters()).dtype)
    return guide, guide.means()


def fit_of(model, guide):
    return bp.Fit([Restart(model, guide, 0)], xr.Dataset(), {})


# -- start ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["map", "meanfield"])
@pytest.mark.parametrize(("dtype", "within"), [(DOUBLE, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (7, 7)])
def test_the_start_is_the_weight_of_the_network(shape, dtype, within, choice):
    model = model_of(bp.LowRank(), *shape, dtype)
    guide, values = started(model, choice)
    weight = model.network.get_parameter("0.weight")
    torch.testing.assert_close(model.weights_at(values)["0.weight"], weight, rtol=0, atol=within)
    assert guide.notes == []
    assert values["0.weight.m"].shape == (min(shape),)


def test_a_given_rank_starts_at_the_best_approximation():
    model = model_of(bp.LowRank(rank=2))
    found = model.weights_at(started(model)[1])["0.weight"].numpy()
    weight = model.network.get_parameter("0.weight").detach().numpy()
    u, sizes, v = np.linalg.svd(weight, full_matrices=False)
    np.testing.assert_allclose(found, (u[:, :2] * sizes[:2]) @ v[:2], atol=1e-12)
    assert np.linalg.norm(found - weight) == pytest.approx(np.sqrt((sizes[2:] ** 2).sum()))  # Eckart and Young


def test_a_matrix_of_zeros_is_a_start_too():
    model = model_of(bp.LowRank())
    with torch.no_grad():
        model.network.get_parameter("0.weight").zero_()
    weight = model.weights_at(started(model)[1])["0.weight"]
    assert float(weight.abs().max()) == 0.0


# -- scale ------------------------------------------------------------------------------------------------------------


def test_lengths_of_u_and_v_matter_to_no_weight_and_sizes_do():
    model = model_of(bp.LowRank())
    values = started(model)[1]
    weight = model.weights_at(values)["0.weight"]
    rank = torch.arange(1.0, 7.0, dtype=DOUBLE)
    longer = {**values, "0.weight.u": values["0.weight.u"] * rank, "0.weight.v": values["0.weight.v"] / rank[:, None]}
    torch.testing.assert_close(model.weights_at(longer)["0.weight"], weight, rtol=0, atol=1e-14)
    larger = {**values, "0.weight.m": values["0.weight.m"] * rank}  # control
    assert float((model.weights_at(larger)["0.weight"] - weight).abs().max()) > 0.1


def test_sizes_of_orthogonal_components_are_singular_values():
    model = model_of(bp.LowRank())
    values = started(model)[1]
    beyond = values["0.weight.m"] - values["0.weight.s"].exp()
    sizes = torch.linalg.svdvals(model.weights_at(values)["0.weight"])
    torch.testing.assert_close(beyond, sizes, rtol=0, atol=1e-13)


# -- gradient ---------------------------------------------------------------------------------------------------------


def test_the_gradient_of_the_objective_is_the_one_worked_out_by_hand():
    model = model_of(bp.LowRank(0.3, rank=4))
    guide, _ = started(model)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 6, generator=generator, dtype=DOUBLE)
    y = torch.randint(9, (40,), generator=generator)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
    at = {name.rpartition(".")[2]: value.detach().clone().requires_grad_() for name, value in guide.means().items()}
    with torch.no_grad():
        at["s"].fill_(float(at["m"].abs().median()) ** 0.5).log_()  # some components are zero, some are not
    given = {f"0.weight.{name}": value for name, value in at.items()}
    outputs = x @ model.weights_at(given)["0.weight"].T + model.network.get_parameter("0.bias").detach()
    loss = -outputs.log_softmax(1)[torch.arange(40), y].sum()
    loss = loss - sum(model.priors["0.weight"].evaluate(at, x)[1].values())
    loss.backward()
    by_hand = gradient_by_hand(
        model, {name: value.detach().numpy() for name, value in at.items()}, x.numpy(), y.numpy()
    )
    for name, wanted in by_hand.items():
        np.testing.assert_allclose(at[name].grad.numpy(), wanted, rtol=1e-9, atol=1e-9, err_msg=name)
    assert not np.allclose(at["s"].grad.numpy(), -by_hand["s"])  # control: a sign error in ds


def gradient_by_hand(model, at, x, y):
    """Of the sum of losses less the log prior, in numpy."""
    u, m, v, s = at["u"], at["m"], at["v"], at["s"]
    bias = model.network.get_parameter("0.bias").detach().numpy()
    lengths_u, lengths_v = np.linalg.norm(u, axis=0), np.linalg.norm(v, axis=1)
    a, b, threshold = u / lengths_u, v / lengths_v[:, None], np.exp(s)
    sizes, kept = np.sign(m) * np.maximum(abs(m) - threshold, 0.0), abs(m) > threshold
    assert 0 < kept.sum() < len(m)
    logits = x @ ((a * sizes) @ b).T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1.0
    g = p.T @ x  # by the weight
    worth = np.einsum("ok,oi,ki->k", a, g, b)
    da, db = (g @ b.T) * sizes, sizes[:, None] * (a.T @ g)
    m_sd, precision = np.sqrt(10.0 * 9 / 4), 0.3 * 4 * (9 + 6)
    return {
        "u": (da - a * (a * da).sum(0)) / lengths_u + u,
        "v": (db - b * (b * db).sum(1, keepdims=True)) / lengths_v[:, None] + v,
        "m": worth * kept + m / m_sd**2,
        "s": -threshold * (worth * np.sign(m) * kept).sum() + precision * (s - np.log(m_sd)),
    }


# -- ranks ------------------------------------------------------------------------------------------------------------


def of_planted_rank(rank):
    """A regression on inputs of 10, outputs of 12, by a matrix of a rank."""
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(12, rank, generator=generator) @ torch.randn(rank, 10, generator=generator) / rank**0.5
    x = torch.randn(400, 10, generator=generator)
    return x, x @ matrix.T + 0.3 * torch.randn(400, 12, generator=generator)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_components_of_a_planted_matrix_are_learned_and_most_others_are_zero(rank):
    x, y = of_planted_rank(rank)

    def fitted(prior):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(10, 12))
        model = bp.BayesianNetwork(network, {"0.weight": prior}, bp.Normal(0.3), data_size=len(x))
        how = {"optimizer": "sgd", "learning_rate": 0.03, "schedule": "cosine", "kl_weight": 1.0, "execution": "plain"}
        return bp.fit(model, (x, y), steps=600, batch_size=400, guide="map", **how)

    fit = fitted(bp.LowRank(5.0))
    sizes = torch.linalg.svdvals(bp.prune(fit, min_inclusion=0.5).network[0].weight.detach().double())
    learned = bp.ranks(fit)["0.weight"].rank
    assert rank <= learned <= rank + 5 and int((sizes > 1e-5 * sizes[0]).sum()) == learned
    assert float(sizes[rank:].sum()) < 0.1 * float(sizes[rank - 1])
    other = torch.linalg.svdvals(bp.prune(fitted(bp.Gaussian()), sparsity=0.0).network[0].weight.detach().double())
    assert int((other > 1e-5 * other[0]).sum()) == 10  # control


def spread_out(model):
    """A mean-field guide around which components are kept with probabilities between 0 and 1."""
    guide, _ = started(model, "meanfield")
    with torch.no_grad():
        for piece in (piece for family in guide.families for piece in family.slices()):
            value = piece.of(piece_parameter(guide, piece))
            if piece.site.latent == "s":
                value.fill_(-0.3 if piece.parameter == "location" else -0.5)
            if piece.site.latent == "m":
                value.copy_(torch.linspace(-1.5, 1.5, 6) if piece.parameter == "location" else torch.full((6,), -1.0))
    return guide


def piece_parameter(guide, piece):
    family = next(family for family in guide.families if any(one.site is piece.site for one in family.slices()))
    return family.get_parameter(piece.parameter).data


def test_probabilities_of_components_are_those_of_draws():
    model = model_of(bp.LowRank())
    fit = fit_of(model, spread_out(model))
    found = bp.ranks(fit)["0.weight"]
    generator = torch.Generator().manual_seed(3)
    count = 400_000
    m = torch.linspace(-1.5, 1.5, 6) + np.exp(-1.0) * torch.randn(count, 6, generator=generator)
    s = -0.3 + np.exp(-0.5) * torch.randn(count, 1, generator=generator)
    kept = m.abs() > s.exp()
    share = kept.double().mean(0).numpy()
    error = np.sqrt(share * (1.0 - share) / count)
    assert (abs(found.kept - share) < 5.0 * error).all()
    assert found.expected == pytest.approx(share.sum(), abs=5.0 * error.sum())
    fixed = (m.abs() > np.exp(-0.3)).double().mean(0).numpy()  # control: the threshold as a point
    assert (abs(found.kept - fixed) > 5.0 * error).all()
    some = float(kept.any(1).double().mean())
    probability = fit.inclusion_probabilities()["0.weight"].values
    assert np.unique(probability).size == 1 and abs(probability[0, 0] - some) < 5.0 * np.sqrt(some * (1 - some) / count)
    assert abs(1.0 - np.prod(1.0 - share) - some) > 20.0 * np.sqrt(some * (1 - some) / count)  # they share a threshold


def test_ranks_of_points_are_whole_and_fits_without_components_have_none():
    model = model_of(bp.LowRank(rank=3))
    found = bp.ranks(fit_of(model, started(model)[0]))["0.weight"]
    assert (found.rank, found.of, found.expected, found.folds) == (3, 3, 3.0, True) and set(found.kept) == {1.0}
    full = model_of(bp.LowRank())
    assert not bp.ranks(fit_of(full, started(full)[0]))["0.weight"].folds
    plain = model_of(bp.Gaussian())
    with pytest.raises(ValueError, match="no prior of this fit has components of rank one: declare LowRank"):
        bp.ranks(fit_of(plain, started(plain)[0]))


def test_at_the_prior_matrices_are_zero_as_a_whole_or_not_at_all():
    prior = TensorPrior("w", bp.LowRank(m_sd=1.0, rank=1), (5, 4), 10)
    torch.manual_seed(0)
    draws = torch.stack([prior.simulate()["weight"] != 0 for _ in range(400)])
    assert 0.1 < float(draws.double().mean()) < 0.9
    assert bool((draws.flatten(1).all(1) | ~draws.flatten(1).any(1)).all())


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"LowRank\(rank=...\) must be at least 1, not 0: leave it out to learn it"),
        ({"rank": 2.5}, "takes a whole number or None, not 2.5"),
        ({"pressure": 0.0}, "must be positive, not 0.0"),
        ({"m_sd": -1.0}, "must be positive, not -1.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        bp.LowRank(**settings)


def test_a_rank_that_a_matrix_cannot_have_is_refused():
    with pytest.raises(ValueError, match=r"LowRank\(rank=7\) is more than the 6 that 0.weight of shape \(9, 6\) can"):
        model_of(bp.LowRank(rank=7))
    assert model_of(bp.LowRank(rank=6)).priors["0.weight"].sites["m"].shape == (6,)


@pytest.mark.parametrize(
    ("network", "pattern", "shape"),
    [(nn.Linear(4, 3), "*", r"\(3,\)"), (nn.Conv2d(2, 3, 3), "weight", r"\(3, 2, 3, 3\)")],
)
def test_vectors_and_convolutions_are_refused(network, pattern, shape):
    with pytest.raises(ValueError, match=f"for the matrices of linear layers, but .* has shape {shape}: narrow"):
        bp.BayesianNetwork(network, {pattern: bp.LowRank()}, data_size=3)


def test_a_rank_of_a_hierarchy_of_one_s_own_may_be_the_tensor_s():
    dist = torch.distributions
    prior = bp.Hierarchy(
        u=bp.Latent(dist.Normal(0.0, 1.0), dims={"output": None, "rank": None}),
        v=bp.Latent(dist.Normal(0.0, 1.0), dims={"rank": None, "input": None}),
        weight=lambda u, v: u @ v,
    )
    sites = TensorPrior("w", prior, (9, 6), 10).sites
    assert (sites["u"].shape, sites["v"].shape) == ((9, 6), (6, 6))
    with pytest.raises(ValueError, match="u: dims.'rank'. needs a tensor with inputs, but b is \\(9,\\)"):
        TensorPrior("b", prior, (9,), 10)


def test_a_factor_of_the_shape_of_the_weights_is_no_latent_per_weight():
    assert TensorPrior("w", bp.LowRank(rank=6), (9, 6), 10).standard_normal is None
