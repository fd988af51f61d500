"""Networks by `MODULE:NAME`: what settings of torchvision's may ask for, and bare layers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bayesprune.runs.declaration import make_network
from bayesprune.runs.own_networks import own_network

SHUFFLENET = "torchvision.models:shufflenet_v2_x0_5"
BARE = """
from torch import nn

def linear(input_shape, outputs):
    return nn.Linear(input_shape[0], outputs)
"""


@pytest.fixture
def offline(monkeypatch):
    """Whether weights were asked for, which fails."""
    asked = []

    def download(*given, **more):
        asked.append(given)
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    return asked


@pytest.mark.parametrize("settings", [{"weights": "DEFAULT"}, {"pretrained": True}, {"weights_backbone": "DEFAULT"}])
def test_settings_out_of_a_folder_download_nothing(offline, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}=.* to download weights.*--weights FILE"):
        make_network(SHUFFLENET, (3, 32, 32), 2, settings=settings)
    assert not offline
    assert own_network(SHUFFLENET, (3, 32, 32), 2, {"weights": None, "num_classes": 2}).fc.out_features == 2  # control


def test_the_armed_download_is_armed(offline):
    from torchvision.models import shufflenet_v2_x0_5

    with pytest.raises(OSError, match="no network"):
        shufflenet_v2_x0_5(weights="DEFAULT")
    assert offline


def test_a_backbone_is_not_downloaded_by_torchvision_s_default(offline):
    network = own_network("torchvision.models.segmentation:lraspp_mobilenet_v3_large", (3, 32, 32), 2)
    assert isinstance(network, torch.nn.Module) and not offline


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "regnet_y_400mf"])  # the second counts with tensors
def test_a_network_that_a_folder_makes_too_large_takes_no_memory(name):
    with pytest.raises(ValueError, match=f"{name} of these sizes has .* parameters, but at most"):
        make_network(f"torchvision.models:{name}", (3, 32, 32), 2, settings={"num_classes": 20_000_000})


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "regnet_y_400mf"])
def test_counting_before_it_is_made_changes_no_weight(name):
    import torchvision

    torch.manual_seed(3)
    direct = getattr(torchvision.models, name)(num_classes=5).state_dict()
    torch.manual_seed(3)
    made = own_network(f"torchvision.models:{name}", (3, 32, 32), 5, {"num_classes": 5}).state_dict()
    assert all(torch.equal(value, made[name]) for name, value in direct.items())
    other = own_network(f"torchvision.models:{name}", (3, 32, 32), 5, {"num_classes": 5}).state_dict()
    assert not torch.equal(other["fc.weight"], made["fc.weight"])  # control


def test_a_bare_layer_gets_the_prior_on_its_weights(command, refused, tmp_path):
    (tmp_path / "net.py").write_text(BARE)
    y = np.arange(40) % 2
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(40, 5)), y=y)
    given = ["fit", "--data", tmp_path / "d.npz", "--network", f"{tmp_path / 'net.py'}:linear", "--prior", "horseshoe"]
    given += ["--steps", 1, "--quiet", "--device", "cpu", "--out"]
    code, _, err = command(*given, tmp_path / "run")
    assert code == 0, err
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["on"] == ["weight"] and found["weights"] == 10
    refused([*given, tmp_path / "r", "--on", "*.weight"], "the network has weight, bias, so give one of these names")
