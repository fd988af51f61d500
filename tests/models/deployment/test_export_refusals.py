from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from bayesprune.models.deployment.export import export_network


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Loop(nn.Module):
    def forward(self, x):
        for _ in range(len(x)):
            x = x + 1
        return x


class NumPy(nn.Module):
    def forward(self, x):
        return torch.as_tensor(x.detach().numpy())


class Noise(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, training=True)


@fx.wrap
def foreign(x):
    return x


class Foreign(nn.Module):
    def forward(self, x):
        return foreign(x)


class Open(nn.Module):
    def forward(self, *inputs):
        return inputs[0]


def scripted():
    return torch.jit.script(nn.ReLU())


def pruned():
    layer = nn.Linear(4, 4)
    layer.register_forward_pre_hook(lambda module, inputs: None)
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Branch(), "layer 'gate' cannot be traced .*control flow depends on the data"),
        (Loop(), "layer 'gate' cannot be traced"),
        (NumPy(), "layer 'gate' cannot be traced"),
        (Noise(), "does not give what the network gives.*random"),
        (Foreign(), r"foreign, which is not a function of torch"),
        (pruned(), "layer 'gate'.*forward hooks"),
        (nn.TransformerEncoderLayer(4, 2, batch_first=True), "layer 'gate'.*does not keep its argument d_model"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "layer 'gate' is a ParametrizedLinear"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_what_cannot_be_written_is_refused_in_a_sentence_and_leaves_nothing(layer, message, tmp_path):
    network = nn.Sequential()
    network.add_module("fc", nn.Linear(4, 4))
    network.add_module("gate", layer)
    with pytest.raises(ValueError, match=message) as refusal:
        export_network(network, torch.randn(64, 4), tmp_path / "deep" / "folder")
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (nn.Linear(4, 2), {"example_input": torch.randn(2, 5)}, r"example input of shape \(2, 5\)"),
        (nn.Linear(4, 2), {"plan": {"a": float("nan")}}, "plan cannot be written as JSON"),
        (nn.Linear(4, 2), {"plan": {"a": torch.zeros(2)}}, "plan cannot be written as JSON"),
        (nn.Linear(4, 2), {"weights_name": "../w.safetensors"}, "weights_name is"),
        (nn.Linear(4, 2), {"weights_name": "w.pt"}, "weights_name is"),
        (nn.Linear(4, 2, dtype=torch.complex64), {"example_input": torch.ones(2, 4) + 0j}, "torch.complex64"),
        (Open(), {}, "open number of inputs"),
    ],
)
def test_wrong_arguments_are_refused_and_leave_nothing(network, arguments, message, tmp_path):
    given = {"example_input": torch.randn(2, 4), **arguments}
    with pytest.raises(ValueError, match=message):
        export_network(network, folder=tmp_path / "folder", **given)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(ValueError, match="cannot be written"):
            export_network(nn.Linear(4, 2), torch.randn(1, 4), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
