"""The documented way to train soft thresholds as their authors do, by public names, beside a loop of the formulas."""

from __future__ import annotations

import functools
import inspect

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.models.priors.threshold_onset import decayed
from tests.oracles import str_reference as reference

# One threshold of each network sleeps on purpose, which is said.
pytestmark = pytest.mark.filterwarnings("ignore:the threshold of .* will be asleep to the end")

SIZE, BATCH, EPOCHS = 40, 8, 60
STEPS = EPOCHS * SIZE // BATCH
DECAY = 6e-3
ASLEEP = -3200.0
CLOSE = 1e-10


def mlp():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)).double()


def convolutions():
    """A separable convolution with batch normalisation, as in MobileNet, and a classifier."""
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),  # depthwise
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).double()


SHAPES = {mlp: (6,), convolutions: (2, 5, 5)}
MATRICES = {mlp: ("0", "2", "4"), convolutions: ("0", "3", "6", "9")}
SLEEPERS = {mlp: "2.weight", convolutions: "6.weight"}
"""The tensor of each network whose threshold stays asleep; the others start where theirs wake up."""
STARTS = {"sigmoid": -11.0, "exp": -11.0}


@functools.cache
def batches(make, seed):
    """Five batches, the same in the same order each epoch."""
    torch.manual_seed(seed)
    x, y = torch.randn(SIZE, *SHAPES[make], dtype=torch.float64), torch.randint(3, (SIZE,))
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))


def starts(make, form, per):
    """Where the s of each group of weights starts, and the group of each tensor."""
    tensors = {f"{layer}.weight": dict(make().named_parameters())[f"{layer}.weight"] for layer in MATRICES[make]}
    if per == "network":
        return {"all": np.array(STARTS[form])}, dict.fromkeys(tensors, "all")
    shapes = {name: (len(p), *(1,) * (p.ndim - 1)) if per == "output" else () for name, p in tensors.items()}
    values = {name: ASLEEP if name == SLEEPERS[make] else STARTS[form] for name in tensors}
    return {name: np.full(shapes[name], value) for name, value in values.items()}, {name: name for name in tensors}


@functools.cache
def authors(make, form="sigmoid", per="layer", smoothing=0.0, mistake=""):
    """What the authors' loop ends on: parameters by name, and s by group."""
    network, data = make(), batches(make, 8)

    def loss(parameters, step):
        x, y = data[step % len(data)]
        outputs = torch.func.functional_call(network, parameters, (x,))
        return nn.functional.cross_entropy(outputs, y, label_smoothing=smoothing)

    s, groups = starts(make, form, per)
    rates = [reference.published_rate(step // len(data), EPOCHS, 0.256) for step in range(STEPS)]
    start = {name: p.detach() for name, p in make().named_parameters()}
    return reference.str_training_loop(start, groups, s, loss, DECAY, rates, form=form, mistake=mistake)


@functools.cache
def fitted(make, form="sigmoid", per="layer", smoothing=0.0, decay_all=True, seed=8, **how):
    """A fit by the recipe, on the data of that seed."""

    def prior(init):
        return bp.SoftThreshold.from_paper(DECAY, data_size=SIZE, init=init, g=form, per=per)

    awake = prior(STARTS[form])
    tensors = [f"{layer}.weight" for layer in MATRICES[make]]
    if per == "network":  # what shares it stands under one pattern
        priors = {f"[{''.join(MATRICES[make])}].weight": awake}
    else:
        priors = dict.fromkeys(tensors, awake) | {SLEEPERS[make]: prior(ASLEEP)}
    if decay_all:
        decays = bp.Gaussian.from_weight_decay(DECAY, data_size=SIZE)
        priors |= {name: decays for name, _ in make().named_parameters() if name not in tensors}
    bnn = bp.BayesianNetwork(make(), priors, bp.Categorical(smoothing), data_size=SIZE)
    how = bp.SoftThreshold.paper_fit(epochs=EPOCHS) | {"execution": "plain"} | how
    return bp.fit(bnn, batches(make, seed), precision="float64", device="cpu", **how)


def ends(fit):
    """Values by name of site, and those of parameters without a prior."""
    found = {name: value.numpy() for name, value in fit.guide.means().items()}
    free = {name: p.detach().numpy() for name, p in fit.model.network.named_parameters() if p.requires_grad}
    return free | found


def distances(fit, path, per="layer"):
    """Largest difference of each tensor and each s, relative to its largest entry."""
    found = ends(fit)
    raw = {f"{name}.raw" if f"{name}.raw" in found else name: value for name, value in path.parameters.items()}
    (shared,) = [name for name in found if name.startswith("[") and name.endswith(".s")] if per == "network" else [""]
    expected = raw | {shared if name == "all" else f"{name}.s": value for name, value in path.s.items()}
    assert set(expected) <= set(found)
    return {
        name: float(np.max(np.abs(found[name].reshape(value.shape) - value)) / np.max(np.abs(value)))
        for name, value in expected.items()
    }


FORMS = [
    pytest.param(mlp, {}, id="mlp"),
    pytest.param(convolutions, {}, id="convolutions"),
    pytest.param(mlp, {"form": "exp"}, id="mlp, exp"),
    pytest.param(mlp, {"per": "output"}, id="mlp, a threshold an output"),
    pytest.param(mlp, {"per": "network"}, id="mlp, one threshold"),
    pytest.param(mlp, {"smoothing": 0.1}, id="mlp, smoothed labels"),
]


@pytest.mark.parametrize(("make", "settings"), FORMS)
def test_the_recipe_ends_where_the_authors_loop_ends(make, settings):
    path = authors(make, **settings)
    fit = fitted(make, **settings)
    assert max(distances(fit, path, settings.get("per", "layer")).values()) < CLOSE
    # It did go somewhere: thresholds have woken up, and have taken weights out while others are left.
    pruned = fit.included_weights()
    density = [float((pruned[name] != 0).double().mean()) for name in pruned if f"{name}.raw" in ends(fit)]
    assert min(density) < 0.9
    assert sum(density) > 0.1


@pytest.mark.parametrize("make", [mlp, convolutions])
def test_the_fused_execution_ends_there_too(make):
    fit = fitted(make, execution="fused", compiled=False)
    assert fit.settings["execution"]["fused_steps"] == STEPS
    assert max(distances(fit, authors(make)).values()) < CLOSE


@pytest.mark.parametrize("mistake", [one for one in reference.MISTAKES if one])
def test_a_mistake_in_the_update_is_seen(mistake):
    found = distances(fitted(mlp), authors(mlp, mistake=mistake))
    assert max(found.values()) > 1e-3
    if mistake == "sign of ds":  # an asleep threshold has none
        assert found[f"{SLEEPERS[mlp]}.s"] < CLOSE


@pytest.mark.parametrize(
    "without",
    [
        {"optimizer": "sgd"},  # of momentum 0.9
        {"schedule": "cosine"},
        {"schedule": bp.warmup_cosine(EPOCHS, 4)},
        {"kl_warmup": 0.5},
        {"kl_weight": 0.9},
        {"decay_all": False},
        {"smoothing": 0.1},
    ],
    ids=["momentum", "by step", "a shorter warm-up", "faded in", "tempered", "biases without decay", "smoothed"],
)
def test_without_any_part_of_the_recipe_a_fit_ends_elsewhere(without):
    path, fit = authors(mlp), fitted(mlp, **without)
    names = [name for name in ends(fit) if not name.endswith("bias")]
    assert max(value for name, value in distances(fit, path).items() if name in names) > 1e-3


def test_a_sleeping_threshold_moves_by_its_decay_alone_whatever_the_data():
    one, other = fitted(mlp), fitted(mlp, seed=9)
    asleep, awake = f"{SLEEPERS[mlp]}.s", "0.weight.s"
    assert np.array_equal(ends(one)[asleep], ends(other)[asleep])  # to the bit
    assert abs(ends(one)[awake] - ends(other)[awake]) > 1e-3
    rates = [reference.published_rate(step // 5, EPOCHS, 0.256) for step in range(STEPS)]
    expected = decayed(ASLEEP, DECAY, rates, 0.875)[-1]
    assert float(ends(one)[asleep]) == pytest.approx(expected, rel=1e-13)
    assert expected > -500.0  # it has come a long way
    assert bool((one.included_weights()[SLEEPERS[mlp]] != 0).all())


def test_the_learning_rate_is_the_published_one_in_every_step_of_every_epoch():
    seen = []

    class Rates(bp.Callback):
        def on_step(self, state):
            seen.append(state.optimizer.param_groups[0]["lr"])

    model = bp.BayesianNetwork(mlp(), {"0.weight": bp.SoftThreshold.from_paper(DECAY, SIZE)}, data_size=SIZE)
    how = bp.SoftThreshold.paper_fit(epochs=EPOCHS) | {"execution": "plain", "callbacks": [Rates()]}
    bp.fit(model, batches(mlp, 8), device="cpu", **how)
    expected = [reference.published_rate(step // 5, EPOCHS, 0.256) for step in range(STEPS)]
    np.testing.assert_allclose(seen, expected, rtol=1e-15, atol=0.0)
    assert all(len(set(seen[first : first + 5])) == 1 for first in range(0, STEPS, 5))  # one an epoch, to the bit


def test_the_settings_of_the_recipe_are_arguments_of_fit():
    found = bp.SoftThreshold.paper_fit()
    assert set(found) <= set(inspect.signature(bp.fit).parameters)
    assert (found["epochs"], found["learning_rate"], found["batch_size"]) == (100, 0.256, 256)
    optimizer = found["optimizer"]([{"params": [nn.Parameter(torch.zeros(2))]}])
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.256, 0.875, False, 0)
    assert bp.SoftThreshold.paper_fit(30, 0.1)["optimizer"].learning_rate == 0.1
    with pytest.raises(ValueError, match="needs a positive learning_rate, not 0"):
        bp.SoftThreshold.paper_fit(learning_rate=0)


def test_a_fit_that_is_not_told_is_trained_by_sgd_at_the_published_rates():
    model = bp.BayesianNetwork(mlp(), {"*.weight": bp.SoftThreshold.from_paper(DECAY, SIZE, init=-9.0)}, data_size=SIZE)
    fit = bp.fit(model, batches(mlp, 8), epochs=4, device="cpu")
    found = {name: fit.settings[name] for name in ("optimizer", "learning_rate", "schedule", "kl_weight", "kl_warmup")}
    expected = {"optimizer": "sgd", "learning_rate": 0.256, "schedule": "warmup-cosine", "kl_weight": 1.0}
    assert found == expected | {"kl_warmup": 0.0}
    adam = bp.fit(model, batches(mlp, 8), epochs=4, device="cpu", optimizer="adam")
    assert (adam.settings["learning_rate"], adam.settings["schedule"]) == (1e-3, "hold-cosine")
