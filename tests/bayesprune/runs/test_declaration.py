"""Models by name."""

import torch

from bayesprune.data.sets import DataSplits
from bayesprune.runs.declaration import Declaration, declare

PART = (torch.zeros(4, 1, 32, 32), torch.arange(4) % 2)
IMAGES = DataSplits("images", PART, PART, PART, 2, (1, 32, 32), torch.zeros(1), torch.ones(1))


def test_by_default_the_prior_is_on_all_weights_but_not_on_scales_of_batch_normalisation():
    declared = declare(IMAGES, "resnet-18", "gaussian")
    parameters = dict(declared.model().network.named_parameters())
    assert "conv1.weight" in declared.on and "fc.weight" in declared.on
    assert "bn1.weight" in parameters and "bn1.weight" not in declared.on
    assert {name for name in parameters if name.endswith(".weight") and parameters[name].ndim > 1} == set(declared.on)


def test_a_network_without_normalisation_keeps_the_pattern():
    assert declare(IMAGES, "lenet-300-100", "gaussian").on == ("*.weight",)


def test_patterns_that_are_given_are_kept():
    assert declare(IMAGES, "resnet-18", "gaussian", on=("*.weight",)).on == ("*.weight",)


def test_unit_gates_write_down_their_weight_scale_whose_default_has_been_another():
    declared = declare(IMAGES, "lenet-300-100", "unit-gates", {"kappa": 0.01})
    written = declared.as_dict()
    assert declared.model().gates.declaration.weight_scale == written["prior_settings"]["weight_scale"] == 0.5
    assert Declaration.from_dict(written) == declared
    by_earlier = {**written, "prior_settings": {"kappa": 0.01}}
    assert Declaration.from_dict(by_earlier).model().gates.declaration.weight_scale == 0.3
    given = declare(IMAGES, "lenet-300-100", "unit-gates", {"kappa": 0.01, "weight_scale": 0.7})
    assert given.model().gates.declaration.weight_scale == 0.7
    assert "weight_scale" not in declare(IMAGES, "lenet-300-100", "laplace").prior_settings
