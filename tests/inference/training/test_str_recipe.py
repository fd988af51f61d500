"""The documented way to train soft thresholds as their authors do, by public names, beside a loop of the formulas."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from tests.oracles import str_reference as reference

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
def batches(make, seed=8):
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
    network, data = make(), batches(make)

    def loss(parameters, step):
        x, y = data[step % len(data)]
        outputs = torch.func.functional_call(network, parameters, (x,))
        return nn.functional.cross_entropy(outputs, y, label_smoothing=smoothing)

    s, groups = starts(make, form, per)
    rates = [reference.published_rate(step // len(data), EPOCHS, 0.256) for step in range(STEPS)]
    start = {name: p.detach() for name, p in make().named_parameters()}
    return reference.str_training_loop(start, groups, s, loss, DECAY, rates, form=form, mistake=mistake)


def fitted(make, form="sigmoid", per="layer", smoothing=0.0, decay_all=True, data=None, **how):
    """A fit by the recipe."""

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
    return bp.fit(bnn, data or batches(make), precision="float64", device="cpu", **how)


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
