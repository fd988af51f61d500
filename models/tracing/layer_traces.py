"""How channels pass through layers; by exact type, each a `handler(recording, name, layer, *inputs)`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bayesprune.models.tracing.activation import (
    Activation,
    activations,
    along_dimension,
    collapsed,
    constant_along,
    known,
    unknown,
    varying_dimensions,
)
from bayesprune.models.tracing.channel_records import Use
from bayesprune.models.tracing.function_traces import mixing, padded, pixel_shuffled, pooled, shuffled, softmax
from bayesprune.models.tracing.recording import Recording

Handler = Callable[..., Any]


def changed_by_hand(layer: nn.Module) -> str:
    """Says what makes a layer do something else than its class does, or nothing."""
    if parametrize.is_parametrized(layer):
        return " with a parametrization"
    if "forward" in vars(layer):
        return " with another forward"
    if layer.training:
        return " that stays in training mode"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return " with forward hooks"
    return ""


# ------------------------------------------------------------------------------------------ layers that mix channels


def linear(recording: Recording, name: str, layer: nn.Linear, x: Activation) -> Activation:
    """A linear layer reads the last dimension."""
    inputs = recording.slice(f"{name}.weight", 1, "input", recording.ties.along(x.channel, -1))
    outputs = _made(recording, name, layer, 0, layer.out_features)
    weight = _plain(layer.weight).unsqueeze(-1)
    columns = constant_along(x.value, len(x.shape) - 1)
    _use(recording, f"{name}.weight", f"{name}.bias", inputs, outputs, weight, columns)
    value = _emitted(weight, columns.view(1, -1), _bias(layer))
    return Activation(_last(outputs, recording), _last(value, recording))


def convolution(recording: Recording, name: str, layer: Any, x: Activation) -> Any:
    """A convolution reads dimension 1; a grouped one ties the channels of one position in each group."""
    if len(x.shape) != layer.weight.ndim:
        return recording.refuse(f"convolution {name!r} of something without a batch", x)
    weight, groups = _plain(layer.weight), layer.groups
    made, read = len(weight), weight.shape[1]
    line = recording.ties.along(x.channel, 1)
    outputs = _made(recording, name, layer, 0, made)
    columns = constant_along(x.value, 1)
    if layer.padding_mode == "zeros" and (isinstance(layer.padding, str) or any(layer.padding)):
        columns = torch.where(columns == 0, columns, math.nan)  # at a padded border another sum comes out
    columns = columns.reshape(groups, -1)
    value = _along_maps(_emitted(weight.flatten(2), columns, _bias(layer)), recording)
    if read == 1 and groups > 1:  # depthwise: every filter belongs to the channel that it reads
        recording.ties.tie(outputs, line.repeat_interleave(made // groups))
        return Activation(_along_maps(outputs, recording), value)
    for lines in (line.view(groups, -1), outputs.view(groups, -1)):
        for row in lines[1:]:
            recording.ties.tie(lines[0], row)
    recording.slice(f"{name}.weight", 1, "input", line[:read])
    inputs = line.view(groups, -1)
    _use(recording, f"{name}.weight", f"{name}.bias", inputs, outputs, weight.flatten(2), columns)
    return Activation(_along_maps(outputs, recording), value)


def transposed_convolution(recording: Recording, name: str, layer: Any, x: Activation) -> Any:
    """A transposed convolution has its inputs first."""
    if layer.groups != 1:
        return recording.refuse(f"grouped transposed convolution {name!r}", x)
    weight = _plain(layer.weight).transpose(0, 1)
    inputs = recording.slice(f"{name}.weight", 0, "input", recording.ties.along(x.channel, 1))
    outputs = _made(recording, name, layer, 1, len(weight))
    columns = constant_along(x.value, 1)
    columns = torch.where(columns == 0, columns, math.nan)
    _use(recording, f"{name}.weight", f"{name}.bias", inputs, outputs, weight.flatten(2), columns)
    zero = (weight == 0).flatten(1).all(dim=1)
    bias = _bias(layer)
    line = torch.where(zero, torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias, math.nan)
    return Activation(_along_maps(outputs, recording), _along_maps(line, recording))


def embedding(recording: Recording, name: str, layer: nn.Embedding, x: Any) -> Any:
    """An embedding makes a channel of each column."""
    if layer.max_norm is not None:
        return recording.refuse(f"Embedding {name!r} that rescales its rows, max_norm", x)
    for index in activations(x):
        recording.ties.pin(index.channel, f"they choose rows of Embedding {name!r}")
    line = recording.new_channels(f"{name}.weight", 1, layer.embedding_dim)
    line = recording.slice(f"{name}.weight", 1, "output", line)
    zero = (_plain(layer.weight) == 0).all(dim=0)
    value = torch.where(zero, 0.0, torch.tensor(math.nan, dtype=torch.float64))
    return Activation(_last(line, recording), _last(value, recording))


def recurrent(recording: Recording, name: str, layer: Any, x: Activation, state: Any = None) -> Any:
    """Recurrent cells, and recurrent layers of one level and direction: a unit owns a row of each gate and a column."""
    cell = isinstance(layer, nn.RNNCellBase)
    if not cell and (layer.num_layers > 1 or layer.bidirectional or getattr(layer, "proj_size", 0)):
        return recording.refuse(f"{type(layer).__name__} {name!r} with several levels, directions or a projection", x)
    end, size = ("" if cell else "_l0"), layer.hidden_size
    units = recording.new_channels(f"{name}.weight_hh{end}", 1, size)
    states = [] if state is None else list(state) if isinstance(state, tuple) else [state]
    if not all(isinstance(part, Activation) for part in states):
        return recording.refuse(f"a start state of {name!r} made inside forward by its size", (x, state))
    for part in states:
        recording.ties.tie(units, recording.ties.along(part.channel, -1))
    units = recording.slice(f"{name}.weight_hh{end}", 1, "input", units)
    inputs = recording.slice(f"{name}.weight_ih{end}", 1, "input", recording.ties.along(x.channel, -1))
    tensors = {key: _plain(value) for key, value in layer.named_parameters()}
    gates = tensors[f"weight_hh{end}"].shape[0] // size
    rows = units.repeat(gates)
    for key in tensors:
        recording.slice(f"{name}.{key}", 0, "output", rows)
    quiet = torch.stack([(tensor == 0).flatten(1 if tensor.ndim > 1 else 0).reshape(len(tensor), -1).all(dim=1)
                         for tensor in tensors.values()]).all(dim=0).view(gates, size)  # fmt: skip
    # The candidate is the row that has to be zero: the other gates only weigh it (gates i, f, g, o and r, z, n).
    off = quiet[2] if gates > 1 else quiet[0]
    for part in states:
        off = off & (constant_along(part.value, len(part.shape) - 1) == 0)
    line = torch.where(off, 0.0, torch.tensor(math.nan, dtype=torch.float64))
    read = constant_along(x.value, len(x.shape) - 1)
    if not layer.bias:
        read = torch.where(read == 0, read, math.nan)
    for tensor, channels, value in (("weight_ih", inputs, read), ("weight_hh", units, line)):
        weight = tensors[f"{tensor}{end}"].unsqueeze(-1)
        _use(
            recording,
            f"{name}.{tensor}{end}",
            f"{name}.bias_ih{end}",
            channels.expand(len(weight), -1),
            rows,
            weight,
            value,
        )

    def made(found: Any) -> Any:
        if isinstance(found, tuple):
            return tuple(made(part) for part in found)
        last = found.ndim - 1
        return Activation(along_dimension(units, last, found.shape), along_dimension(line, last, found.shape))

    return made(recording.example)


# -------------------------------------------------------------------------------- layers that keep channels apart


def batch_normalisation(recording: Recording, name: str, layer: Any, x: Activation) -> Activation:
    """Batch normalisation scales and shifts each channel by its own numbers."""
    line = recording.ties.along(x.channel, 1)
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    for key, tensor in tensors.items():
        if tensor.ndim == 1:
            line = recording.slice(f"{name}.{key}", 0, "pass", line)
    recording.features[name] = line
    one = torch.ones(len(line), dtype=torch.float64)
    scale = one if layer.weight is None else _plain(layer.weight).double()
    shift = 0 * one if layer.bias is None else _plain(layer.bias).double()
    if layer.running_mean is None:
        mean, value = 0 * one, unknown(x.shape)
    else:
        mean, value = _plain(layer.running_mean).double(), collapsed(x.value)
        scale = scale / (_plain(layer.running_var).double() + layer.eps).sqrt()
    shape = [-1 if dim == 1 else 1 for dim in range(len(x.shape))]
    normalised = (value - mean.view(shape)) * scale.view(shape) + shift.view(shape)
    normalised = torch.where(scale.view(shape) == 0, shift.view(shape), normalised)
    return Activation(_along(line, 1, x), normalised.expand(x.shape))


def instance_normalisation(recording: Recording, name: str, layer: Any, x: Activation) -> Activation:
    """Instance normalisation acts on each map by itself; a channel is constant where its scale is zero."""
    line = recording.ties.along(x.channel, 1)
    for key, tensor in (*layer.named_parameters(), *layer.named_buffers()):
        if tensor.ndim == 1:
            line = recording.slice(f"{name}.{key}", 0, "pass", line)
    recording.features[name] = line
    if layer.weight is None:
        return Activation(_along(line, 1, x), unknown(x.shape))
    value = torch.where(_plain(layer.weight) == 0, _plain(layer.bias).double(), math.nan)
    return Activation(_along(line, 1, x), along_dimension(value, 1, x.shape))


def mixing_normalisation(recording: Recording, name: str, layer: nn.Module, x: Activation) -> Any:
    """Normalisation across channels: its statistics are of all of them, so removing one changes the others."""
    kind = type(layer).__name__
    return recording.ended(x, f"{kind} {name!r} normalises across channels, so that removal would change the others")


def prelu(recording: Recording, name: str, layer: nn.PReLU, x: Activation) -> Activation:
    """ReLU with a slope for all channels or for each."""
    slope = _plain(layer.weight).double()
    if layer.num_parameters == 1:
        return Activation(x.channel, known(lambda part: torch.where(part > 0, part, slope * part), x.value))
    line = recording.slice(f"{name}.weight", 0, "pass", recording.ties.along(x.channel, 1))
    slopes = along_dimension(slope, 1, x.shape)
    return Activation(_along(line, 1, x), torch.where(x.value > 0, x.value, slopes * x.value))


def pointwise_layer(recording: Recording, name: str, layer: nn.Module, x: Activation) -> Activation:
    """An activation function."""
    return Activation(x.channel, known(layer, x.value))


def identity(recording: Recording, name: str, layer: nn.Module, x: Activation) -> Activation:
    """Identity, and dropout in evaluation mode."""
    return x


def pooling(recording: Recording, name: str, layer: nn.Module, x: Activation) -> Any:
    """Pooling and interpolation."""
    return pooled(recording, layer, x)


def flattening(recording: Recording, name: str, layer: nn.Module, x: Activation) -> Activation:
    """Flatten moves numbers."""
    return Activation(layer(x.channel), layer(x.value))


def pixel_shuffling(recording: Recording, name: str, layer: nn.PixelShuffle, x: Activation) -> Activation:
    """Pixel shuffle."""
    found: Activation = pixel_shuffled(recording, layer, x, layer.upscale_factor)
    return found


def unflattening(recording: Recording, name: str, layer: nn.Unflatten, x: Activation) -> Activation:
    """Unflatten has its sizes written in the layer: what it splits stays."""
    if int(layer.dim) % len(x.shape) in varying_dimensions(x.channel):
        recording.ties.pin(x.channel, f"Unflatten {name!r} has the number of channels written in it")
    return Activation(layer(x.channel), layer(x.value))


def padding(recording: Recording, name: str, layer: Any, x: Activation) -> Any:
    """Padding of maps."""
    mode = {"Z": "constant", "C": "constant", "R": "reflect"}[type(layer).__name__[0]]
    if type(layer).__name__.startswith("Replication"):
        mode = "replicate"
    value = getattr(layer, "value", 0.0)
    if len(layer.padding) > 2 * (len(x.shape) - 2):
        return recording.refuse(f"padding {name!r} of something without a batch", x)
    return padded(recording, layer, x, list(layer.padding), mode, value if mode == "constant" else None)


def shuffling(recording: Recording, name: str, layer: Any, x: Activation) -> Any:
    """Channel shuffle."""
    return shuffled(recording, torch.nn.functional.channel_shuffle, x, layer.groups)


def softmax_layer(recording: Recording, name: str, layer: Any, x: Activation) -> Any:
    """Softmax."""
    return softmax(recording, layer, x, layer.dim)


def mixing_layer(recording: Recording, name: str, layer: nn.Module, x: Activation) -> Any:
    """A layer without parameters that mixes channels."""
    return mixing(recording, type(layer), x)


# ------------------------------------------------------------------------------------------------------- shared parts


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu")


def _bias(layer: Any) -> Tensor | None:
    return None if layer.bias is None else _plain(layer.bias).double()


def _along(line: Tensor, dim: int, x: Activation) -> Tensor:
    return along_dimension(line, dim, x.shape)


def _along_maps(line: Tensor, recording: Recording) -> Tensor:
    return along_dimension(line, 1, recording.example.shape)


def _last(line: Tensor, recording: Recording) -> Tensor:
    return along_dimension(line, recording.example.ndim - 1, recording.example.shape)


def _made(recording: Recording, name: str, layer: Any, dim: int, count: int) -> Tensor:
    """Channels that a layer makes, with the slices of its weight and bias."""
    outputs = recording.slice(f"{name}.weight", dim, "output", recording.new_channels(f"{name}.weight", dim, count))
    if layer.bias is not None:
        recording.slice(f"{name}.bias", 0, "output", outputs)
    return outputs


def _emitted(weight: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    """What rows give that read constants only, NaN for others; float64, `(rows,)`.

    Args:
        weight: `(rows, columns, positions)`.
        columns: What each column reads, NaN where that is not constant, `(groups, columns)`.
        bias: `(rows,)`.
    """
    read = columns.repeat_interleave(len(weight) // len(columns), dim=0)
    sure = ~((weight != 0).any(dim=-1) & torch.isnan(read)).any(dim=1)
    value = (weight.double().sum(dim=-1) * torch.nan_to_num(read)).sum(dim=1)
    return torch.where(sure, value if bias is None else value + bias, math.nan)


def _use(
    recording: Recording, tensor: str, bias: str, inputs: Tensor, outputs: Tensor, weight: Tensor, value: Tensor
) -> None:
    columns = weight.shape[1]
    recording.uses.append(Use(tensor, bias, inputs.reshape(-1, columns), outputs, weight, value.reshape(-1, columns)))


def _table(handler: Handler, names: str) -> dict[type[nn.Module], Handler]:
    return {getattr(nn, name): handler for name in names.split()}


LAYERS: dict[type[nn.Module], Handler] = {
    nn.Linear: linear,
    **_table(convolution, "Conv1d Conv2d Conv3d"),
    **_table(transposed_convolution, "ConvTranspose1d ConvTranspose2d ConvTranspose3d"),
    nn.Embedding: embedding,
    **_table(recurrent, "RNNCell GRUCell LSTMCell RNN GRU LSTM"),
    **_table(batch_normalisation, "BatchNorm1d BatchNorm2d BatchNorm3d"),
    **_table(instance_normalisation, "InstanceNorm1d InstanceNorm2d InstanceNorm3d"),
    **_table(mixing_normalisation, "LayerNorm GroupNorm LocalResponseNorm RMSNorm"),
    nn.PReLU: prelu,
    **_table(
        pointwise_layer,
        "ReLU ReLU6 Sigmoid Tanh GELU SiLU Hardswish Hardsigmoid Hardtanh LeakyReLU ELU SELU CELU Softplus Softsign "
        "Mish LogSigmoid Tanhshrink Softshrink Hardshrink Threshold",
    ),
    **_table(identity, "Identity Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout"),
    **_table(
        pooling,
        "MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d "
        "AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d Upsample UpsamplingNearest2d "
        "UpsamplingBilinear2d",
    ),
    nn.Flatten: flattening,
    nn.PixelShuffle: pixel_shuffling,
    nn.Unflatten: unflattening,
    **_table(
        padding,
        "ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d ConstantPad3d ReflectionPad1d ReflectionPad2d "
        "ReplicationPad1d ReplicationPad2d ReplicationPad3d",
    ),
    nn.ChannelShuffle: shuffling,
    **_table(softmax_layer, "Softmax LogSoftmax"),
    **_table(mixing_layer, "Softmax2d"),
}
"""Handler by type of layer; a subclass is another type, since it may do something else."""
