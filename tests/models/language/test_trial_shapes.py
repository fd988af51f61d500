"""Declarations are tried on the weights of a linear layer and of convolutions; what fits neither is refused."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent

LINEAR, CONV, CONV1D = (4, 3), (4, 3, 5, 5), (4, 3, 5)


def of_kernels(scale=1.0):
    """Works for weights `(out, in, height, width)` alone."""
    return Hierarchy(
        t=Latent(dist.Gamma(2.0, 1.0), per="weight"),
        weight=lambda t: dist.Normal(0.0, scale * t / t.sum((2, 3), keepdim=True)),
    )


def unpacked():
    def weight(t):
        out, columns, height, width = t.shape
        return dist.Normal(0.0, t / (out * columns * height * width))

    return Hierarchy(t=dist.Gamma(2.0, 1.0), weight=weight)


def of_signals():
    return Hierarchy(t=dist.Gamma(2.0, 1.0), weight=lambda t: dist.Normal(0.0, t / t.sum(2, keepdim=True)[:, :, 0:1]))


def of_matrices():
    return Hierarchy(t=dist.Gamma(2.0, 1.0), weight=lambda t: dist.Normal(0.0, t @ torch.eye(t.shape[1]) / t.T.sum()))


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))


@pytest.mark.parametrize("make", [of_kernels, unpacked])
def test_a_declaration_for_convolutions_is_taken_and_refused_in_one_sentence_on_a_matrix(make):
    bnn = bp.BayesianNetwork(network(), {"0.weight": make()}, data_size=10)
    assert bnn.priors["0.weight"].simulate()["weight"].shape == (4, 1, 3, 3)
    with pytest.raises(
        ValueError, match=r"cannot be evaluated on 2.weight of shape \(2, 16\).*narrow the pattern"
    ) as no:
        bp.BayesianNetwork(network(), {"*.weight": make()}, data_size=10)
    assert "\n" not in str(no.value)


def test_a_declaration_for_matrices_is_refused_in_one_sentence_on_a_convolution():
    bp.BayesianNetwork(network(), {"2.weight": of_matrices()}, data_size=10)
    with pytest.raises(ValueError, match=r"cannot be evaluated on 0.weight of shape \(4, 1, 3, 3\)") as no:
        bp.BayesianNetwork(network(), {"*.weight": of_matrices()}, data_size=10)
    assert "\n" not in str(no.value)


def test_convolutions_of_other_dimensions_are_tried_too():
    assert of_signals().weight_is_latent
    assert Hierarchy(t=dist.Gamma(2.0, 1.0), weight=lambda t: dist.Normal(0.0, t / t.sum(4, keepdim=True)))


def test_kernels_are_a_level_of_both_shapes():
    one = Hierarchy(g=Latent(dist.Gamma(2.0, 1.0), per="kernel"), weight=lambda g: dist.Normal(0.0, g))
    bnn = bp.BayesianNetwork(network(), {"*.weight": one}, data_size=10)
    assert bnn.priors["0.weight"].sites["g"].shape == (4, 1, 1, 1) and bnn.priors["2.weight"].sites["g"].shape == (
        2,
        16,
    )


def test_what_is_wrong_with_a_declaration_for_convolutions_is_said_of_a_convolution():
    with pytest.raises(ValueError, match="wrong support"):
        Hierarchy(t=dist.Gamma(2.0, 1.0), weight=lambda t: dist.Normal(0.0, -t / t.sum((2, 3), keepdim=True)))
    with pytest.raises(ValueError, match="does not broadcast"):
        Hierarchy(t=dist.Gamma(2.0, 1.0), weight=lambda t: dist.Normal(0.0, t.sum((2, 3))))


@pytest.mark.parametrize("function", [lambda t: t.flatten()[:7], lambda t: t[0, 0, 0, 0, 0, 0], lambda t: t.missing])
def test_what_fits_no_shape_is_refused(function):
    with pytest.raises(ValueError, match=r"trial tensor of shape \(6, 5\)|shape \(6, 5\) on a trial tensor"):
        Hierarchy(t=dist.Gamma(2.0, 1.0), weight=lambda t: dist.Normal(0.0, function(t)))


def test_the_fingerprint_of_a_declaration_for_convolutions_changes_with_its_constants():
    assert of_kernels().fingerprint() == of_kernels().fingerprint() != of_kernels(1.01).fingerprint()
