"""`prune(fit, budget=)`: exactly as many weights as asked for, in all or of each tensor, the highest scores of each."""

from __future__ import annotations

import pytest
import torch

import bayesprune as bp

NAMES = ("fc1.weight", "fc2.weight", "fc3.weight")
SIZES = dict(zip(NAMES, (8 * 12, 12 * 6, 6 * 3), strict=True))


def data(rows=24):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(rows, 8, generator=generator), torch.randint(3, (rows,), generator=generator)


def fitted(prior, steps=6, **more):
    torch.manual_seed(1)
    network = bp.lenet_300_100(8, 3, hidden=(12, 6))
    model = bp.BayesianNetwork(network, {} if prior is None else {"*.weight": prior}, data_size=24, **more)
    return bp.fit(model, data(), steps=steps, batch_size=8, device="cpu", execution="plain")


@pytest.fixture(scope="module")
def halo():
    return fitted(bp.HALO())


@pytest.fixture(scope="module")
def thresholded():
    """A fit with exact zeros, some in every tensor."""
    fit = fitted(bp.SoftThreshold(g="sigmoid"), steps=2)  # at s of zero thresholds of a half
    with torch.no_grad():
        for family in fit.guide.families:
            for piece in family.slices():
                place = piece.of(family.location.data)
                place.copy_(
                    torch.linspace(-1, 1, place.numel()).view(place.shape) if piece.site.latent == "raw" else 0.0
                )
    assert all(0.3 < fit.layer_budget()[name] < 0.7 for name in NAMES)
    return fit


@pytest.mark.parametrize("criterion", ["magnitude", None])
def test_each_tensor_keeps_its_highest_scores(halo, criterion):
    budget = bp.LayerBudget.erk(halo.model, 0.3)
    result = bp.prune(halo, budget=budget, criterion=criterion)
    assert bp.LayerBudget.of(result) == bp.LayerBudget.of(result.masks) == budget
    assert bp.LayerBudget.of(result.network) == budget
    for one in budget.layers:
        size, mask = halo.included_weights()[one.tensor].abs(), result.masks[one.tensor]
        assert int(mask.sum()) == one.left and float(size[mask].min()) >= float(size[~mask].max())
        assert result.report.per_tensor[one.tensor]["nonzero"] == one.left
    assert result.report.rule == f"budget by layer, {budget.left:,} of 186 weights in all"
    uniform = bp.prune(halo, budget=bp.LayerBudget.uniform(halo.model, 0.3))  # control: another budget of that total
    assert uniform.report.nonzero == result.report.nonzero and uniform.report.per_tensor != result.report.per_tensor


@pytest.mark.parametrize(("asked", "kept"), [(0.25, 46), (33, 33), (1, 1), (0.999, 186)])
def test_one_number_is_of_the_whole_network(halo, asked, kept):
    result = bp.prune(halo, budget=asked)
    sizes = torch.cat([halo.included_weights()[name].abs().flatten() for name in NAMES])
    masks = torch.cat([result.masks[name].flatten() for name in NAMES])
    assert int(masks.sum()) == kept == result.report.nonzero
    assert kept == 186 or float(sizes[masks].min()) >= float(sizes[~masks].max())
    assert result.report.rule == f"budget of {kept} of 186 weights"


def test_tensors_that_are_not_named_stay_as_the_fit_has_left_them(thresholded):
    result, left = bp.prune(thresholded, budget={"fc2.weight": 10}), thresholded.layer_budget()
    found = bp.LayerBudget.of(result)
    assert [one.left for one in found.layers] == [left.layers[0].left, 10, left.layers[2].left]
    assert result.report.rule.endswith("other tensors as the fit has left them")


def test_what_a_fit_has_learned_is_kept_whole(thresholded):
    result = bp.prune(thresholded, budget=bp.LayerBudget.of(thresholded))
    for name, weight in thresholded.included_weights().items():
        assert torch.equal(result.masks[name], weight != 0)


def test_nothing_that_the_fit_has_left_out_comes_back(thresholded):
    """Not even by a criterion that would have it so."""

    def backwards(fit, restart):
        return {name: -weight.abs() for name, weight in fit.included_weights(restart).items()}

    budget = {name: 2 for name in NAMES}
    masks = bp.prune(thresholded, budget=budget, criterion=backwards).masks
    weights = thresholded.included_weights()
    assert all(bool((weights[name][mask] != 0).all()) and int(mask.sum()) == 2 for name, mask in masks.items())


@pytest.mark.filterwarnings("ignore:the noise of theta")
def test_units_that_were_removed_have_none_to_keep():
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    network = bp.lenet_300_100(8, 3, hidden=(12, 6))
    gates = bp.UnitGates(kappa=0.003, weight_scale=0.3)
    model = bp.BayesianNetwork(network, {}, data_size=400, gates=gates, example_input=x[:1])
    how = {"steps": 300, "batch_size": 32, "learning_rate": 0.02, "device": "cpu", "execution": "plain"}
    fit = bp.fit(model, (x, x[:, :3].argmax(1)), rules=[bp.Gating(delay=0, travel=0.5)], **how)
    budget, gone = fit.layer_budget(), fit.model.plan is not None
    assert gone and budget.weights == sum(SIZES.values()) and 0 < budget.left < budget.weights
    assert bp.LayerBudget.of(bp.prune(fit, budget=budget)) == budget
    with pytest.raises(ValueError, match="asks for 96 weights of fc1.weight, but the fit has left 72 of 96"):
        bp.prune(fit, budget={"fc1.weight": 1.0})


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ({"fc9.weight": 0.1}, "'fc9.weight', which matches no tensor"),
        ({"fc1.weight": 0.0}, "a share in \\(0, 1\\]"),
        ({"fc3.weight": 0.01}, "leaves none of the 18 weights of fc3.weight"),
        ({"fc3.weight": 1.0}, "for 18 weights of fc3.weight, but the fit has left 10 of 18 in: ask for at most 0.55"),
        (bp.LayerBudget.from_densities({"fc1.weight": 0.0}), "leaves nothing of fc1.weight"),
        (0.9, "asks for 167 weights, but the fit has left"),
        (0.0, "budget= is a share in \\(0, 1\\) of the weights or a whole number"),
        (1.5, "budget= is a share"),
        (1e-9, "leaves none of the 186 weights"),
        (True, "not True"),
        ("x.json", "not 'x.json'"),
        ([1], "not an object of type list"),
    ],
)  # fmt: skip
def test_a_budget_that_the_fit_cannot_meet_is_refused(thresholded, budget, says):
    with pytest.raises(ValueError, match=says) as told:
        bp.prune(thresholded, budget=budget)
    assert "\n" not in str(told.value)


def test_it_stands_alone(halo):
    for more in ({"sparsity": 0.5}, {"min_inclusion": 0.5}, {"min_score": 0.1, "criterion": "magnitude"}):
        with pytest.raises(
            ValueError, match="give one of sparsity=, share=, count=, min_inclusion=, min_score= and budget="
        ):
            bp.prune(halo, budget=0.5, **more)
    with pytest.raises(ValueError, match="give LayerBudget.uniform"):
        bp.prune(halo, budget=0.5, per="layer")
