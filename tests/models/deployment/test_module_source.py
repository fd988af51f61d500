from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune.models.deployment.module_source import layer_source, literal

LAYERS = [
    (nn.Linear(3, 4), "nn.Linear(3, 4)"),
    (nn.Linear(3, 4, bias=False), "nn.Linear(3, 4, bias=False)"),
    (nn.Conv2d(1, 7, 5), "nn.Conv2d(1, 7, kernel_size=(5, 5))"),
    (
        nn.Conv2d(4, 8, (5, 3), stride=2, padding=1, dilation=(1, 2), groups=4, bias=False),
        "nn.Conv2d(4, 8, kernel_size=(5, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 2), groups=4, bias=False)",
    ),
    (
        nn.Conv1d(2, 4, 3, padding="same", padding_mode="circular"),
        'nn.Conv1d(2, 4, kernel_size=(3,), padding="same", padding_mode="circular")',
    ),
    (nn.ConvTranspose2d(2, 4, 3, output_padding=1, stride=2), None),
    (nn.BatchNorm2d(4), "nn.BatchNorm2d(4)"),
    (
        nn.BatchNorm2d(4, eps=1e-3, momentum=None, affine=False),
        "nn.BatchNorm2d(4, eps=0.001, momentum=None, affine=False)",
    ),
    (nn.LayerNorm([2, 5], elementwise_affine=False), "nn.LayerNorm((2, 5), elementwise_affine=False)"),
    (nn.LayerNorm(5, bias=False), "nn.LayerNorm((5,), bias=False)"),
    (nn.GroupNorm(2, 4), "nn.GroupNorm(2, 4)"),
    (nn.MaxPool2d(2), "nn.MaxPool2d(kernel_size=2)"),
    (nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), None),
    (nn.AvgPool2d(2, stride=1), "nn.AvgPool2d(kernel_size=2, stride=1)"),
    (nn.AdaptiveAvgPool2d((None, 7)), "nn.AdaptiveAvgPool2d((None, 7))"),
    (nn.Dropout(0.2), "nn.Dropout(p=0.2)"),
    (nn.Dropout(), "nn.Dropout()"),
    (nn.ReLU6(inplace=True), "nn.ReLU6(inplace=True)"),
    (nn.PReLU(3, init=0.1), "nn.PReLU(num_parameters=3, init=0.1)"),
    (nn.Embedding(10, 3, padding_idx=0), "nn.Embedding(10, 3, padding_idx=0)"),
    (nn.MultiheadAttention(8, 2, bias=False, kdim=4, add_bias_kv=True), None),
    (nn.LSTM(3, 4), "nn.LSTM(3, 4)"),
    (nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True, dropout=0.1, bias=False, proj_size=2), None),
    (nn.RNN(3, 4, nonlinearity="relu"), 'nn.RNN(3, 4, nonlinearity="relu")'),
    (nn.GRUCell(3, 4, bias=False), "nn.GRUCell(3, 4, bias=False)"),
    (nn.RNNCell(3, 4, nonlinearity="relu"), 'nn.RNNCell(3, 4, nonlinearity="relu")'),
    (nn.Flatten(2), "nn.Flatten(start_dim=2)"),
    (nn.Upsample(scale_factor=2, mode="bilinear"), 'nn.Upsample(scale_factor=2.0, mode="bilinear")'),
    (nn.Threshold(float("-inf"), 20.0), 'nn.Threshold(float("-inf"), 20.0)'),
    (nn.Identity(3, unused=1), "nn.Identity()"),
]


@pytest.mark.parametrize(("layer", "expected"), LAYERS, ids=lambda part: type(part).__name__)
def test_the_source_of_a_layer_builds_it_again(layer, expected):
    source = layer_source("layer", layer)
    assert expected in (None, source)
    built = eval(source, {"nn": nn})
    assert repr(built) == repr(layer)
    built.load_state_dict(layer.state_dict())


def test_every_argument_that_is_not_at_its_default_is_written():
    # Control for the parameter list above: a layer that differs in one argument has another source.
    assert layer_source("a", nn.MaxPool2d(3, stride=2)) != layer_source("a", nn.MaxPool2d(3))
    assert layer_source("a", nn.LSTM(3, 4, bias=False)) != layer_source("a", nn.LSTM(3, 4))
    assert layer_source("a", nn.MaxPool2d(3, stride=3)) == layer_source("a", nn.MaxPool2d(3))


def narrowed(layer, **changes):
    for name, value in changes.items():
        setattr(layer, name, value)
    return layer


class Mine(nn.Linear):
    pass


def hooked():
    layer = nn.Linear(3, 4)
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (narrowed(nn.Linear(3, 4), weight=nn.Parameter(torch.ones(2, 3))), "its weight differs"),
        (narrowed(nn.Conv2d(2, 4, 3), out_channels=3, bias=nn.Parameter(torch.ones(3))), "its weight differs"),
        (narrowed(nn.Conv2d(2, 4, 3), bias=nn.Parameter(torch.ones(3))), "its bias differs"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), "ParametrizedLinear, which is neither"),
        (Mine(3, 4), "'l' is a Mine, which is neither a layer of torch.nn nor traceable"),
        (nn.Sequential(), "Sequential, which is neither"),
        (hooked(), "has forward hooks"),
        (nn.TransformerEncoderLayer(8, 2, batch_first=True), "does not keep its argument d_model"),
    ],
)
def test_a_layer_that_its_source_would_not_build_is_refused_by_name(layer, message):
    with pytest.raises(ValueError, match=message) as refusal:
        layer_source("l", layer)
    assert "'l'" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "value",
    [1, -2.5, True, None, "a", 'say "x"', "line\nbreak", "back\\slash", (1,), (), [1, (2, None)], ..., 1 + 2j]
    + [float("inf"), float("-inf"), torch.float64, torch.channels_last, torch.device("cpu"), torch.Size([2, 3])],
    ids=repr,
)
def test_a_literal_reads_back_as_the_value(value):
    assert eval(literal(value), {"torch": torch}) == value


def test_what_has_no_literal_is_refused():
    with pytest.raises(TypeError, match="class object"):
        literal(object())
