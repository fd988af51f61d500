"""How channels pass through functions and methods of tensors; each a `handler(recording, function, *arguments)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.models.tracing.activation import (
    Activation,
    along_dimension,
    collapsed,
    concatenated,
    constant_along,
    known,
    unknown,
    varying_dimensions,
)
from bayesprune.models.tracing.channel_records import Count
from bayesprune.models.tracing.recording import Recording

Handler = Callable[..., Any]
_MADE = "made inside forward, where x.new_zeros, x.new_ones, x.new_full of the input and buffers are understood"


def pointwise(recording: Recording, function: Handler, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A function of each number by itself."""
    others = [*args, *kwargs.values()]
    if not isinstance(x, Activation) or any(torch.is_tensor(each) or isinstance(each, Activation) for each in others):
        return recording.refuse("a function with several tensors", (x, args, kwargs))
    if any(isinstance(each, fx.Node) for each in (*recording.node.args[1:], *recording.node.kwargs.values())):
        return Activation(x.channel, unknown(x.shape))  # a size, and that may be another with another input
    return Activation(x.channel, known(lambda part: function(part, *args, **kwargs), x.value))


def unchanged(recording: Recording, function: Handler, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """A function that does nothing to the numbers."""
    return x


def cast(recording: Recording, function: Handler, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """Another number format; constants are rounded to it."""
    made = recording.example.dtype
    return Activation(x.channel, known(lambda part: part.to(made).double(), x.value))


def dropout(
    recording: Recording, function: Handler, x: Activation, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Dropout; the functional form is active in evaluation mode too unless its code says otherwise."""
    return recording.refuse("dropout that stays active in evaluation mode", x) if training else x


def stochastic_depth(recording: Recording, function: Handler, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """Torchvision's stochastic depth, which does nothing in evaluation mode."""
    training = kwargs.get("training", args[2] if len(args) > 2 else True)
    return recording.refuse("stochastic depth that stays active in evaluation mode", x) if training else x


def joined(recording: Recording, function: Handler, a: Any, b: Any, **kwargs: Any) -> Any:
    """A function of two activations, number by number: their channels are tied."""
    if any(torch.is_tensor(part) and part.numel() > 1 for part in (a, b)):
        return recording.refuse(f"a tensor {_MADE}", (a, b))
    if isinstance(a, Activation) and isinstance(b, Activation):
        value = function(*torch.broadcast_tensors(a.value, b.value), **kwargs)
        return Activation(recording.ties.tie(a.channel, b.channel), value)
    values = [_number(part, code) for part, code in zip((a, b), recording.node.args, strict=False)]
    return Activation(a.channel if isinstance(a, Activation) else b.channel, function(*values, **kwargs))


def _number(part: Any, code: Any) -> Any:
    """An operand; a number that the code computes is a size, and that may be another with another input."""
    if isinstance(part, Activation):
        return part.value
    return math.nan if isinstance(code, fx.Node) else part


def multiplied(recording: Recording, function: Handler, a: Any, b: Any) -> Any:
    """A product: zero times anything is zero."""
    return _with_zeros(joined(recording, function, a, b), a, b)


def divided(recording: Recording, function: Handler, a: Any, b: Any, **kwargs: Any) -> Any:
    """A quotient: zero over a number is zero."""
    result = joined(recording, function, a, b, **kwargs)
    return result if isinstance(b, Activation) else _with_zeros(result, a)


def _with_zeros(result: Any, *parts: Any) -> Any:
    if not isinstance(result, Activation):
        return result
    value = result.value
    for part in parts:
        if isinstance(part, Activation):
            value = torch.where(part.value == 0, 0.0, value)
    return Activation(result.channel, value)


def pooled(recording: Recording, function: Any, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """Pooling, interpolation: works on each map by itself, dimension 1 is that of the maps."""
    made = recording.example
    name = getattr(function, "__name__", None) or type(function).__name__
    whole = int(name[-2]) + 2 if name[-2:] in ("1d", "2d", "3d") else 3
    if not torch.is_tensor(made) or made.ndim < whole:
        return recording.refuse("pooling with indices, or of something without a batch", x)
    line = recording.ties.along(x.channel, 1)
    value = constant_along(x.value, 1)
    if not bool(torch.isnan(value).all()):
        found = function(x.value, *args, **kwargs).movedim(1, 0).flatten(1)
        # Zeros that are put beside a map show themselves; a divisor of one's own counts on full windows.
        same = ((found - value.unsqueeze(1)).abs() <= 1e-12 * value.abs().unsqueeze(1)).all(dim=1)
        divisor = getattr(function, "divisor_override", None) or kwargs.get("divisor_override") or len(args) > 5
        value = torch.where(same & (not divisor) | (value == 0), value, math.nan)
    return Activation(along_dimension(line, 1, made.shape), along_dimension(value, 1, made.shape))


def reduced(
    recording: Recording, function: Handler, x: Activation, dim: Any = None, keepdim: bool = False, **kwargs: Any
) -> Any:
    """A mean, sum or maximum over positions; over channels it ends them."""
    dim = kwargs.get("axis", dim)
    dims = tuple(range(len(x.shape))) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    dims = tuple(d % len(x.shape) for d in dims)
    if set(dims) & set(varying_dimensions(x.channel)):
        return recording.ended(x, f"node {recording.node.name!r} adds up over channels")
    channel, value = x.channel, x.value
    for d in dims:
        channel, low, high = channel.narrow(d, 0, 1), value.amin(d, keepdim=True), value.amax(d, keepdim=True)
        value = torch.where(low == high, low, math.nan)
    if not keepdim:
        channel, value = channel.squeeze(dims), value.squeeze(dims)
    if function.__name__ == "sum":  # of so many positions as there are
        value = torch.where(value == 0, value, math.nan)
    return Activation(channel, value)


def mixing(recording: Recording, function: Handler, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """A function whose result at one channel depends on all: removing one would change the others."""
    name = getattr(function, "__name__", "function")
    return recording.ended((x, args, kwargs), f"node {recording.node.name!r} mixes channels ({name})")


def softmax(recording: Recording, function: Handler, x: Activation, dim: int | None = None, **kwargs: Any) -> Any:
    """A softmax over positions keeps channels apart; over channels it ends them."""
    if dim is None or dim % len(x.shape) in varying_dimensions(x.channel):
        return mixing(recording, function, x)
    return Activation(x.channel, unknown(x.shape))


def moved(recording: Recording, function: Handler, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """A function that only moves numbers about."""
    return Activation(function(x.channel, *args, **kwargs), function(x.value, *args, **kwargs))


def sized(recording: Recording, function: Handler, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """`view`, `reshape`, `expand`: moves numbers to a shape that the code may write out."""
    if function is Tensor.view:
        function = Tensor.reshape  # what is expanded here may be contiguous there
    (key,) = kwargs or (None,)
    if args and isinstance(args[0], torch.dtype):
        return recording.refuse("a view of another number format", x)
    node = recording.node
    written = node.args[1:] if key is None else (node.kwargs[key],)
    packed = isinstance(written[0], (tuple, list))
    sizes = list(written[0] if packed else written)  # type: ignore[arg-type]
    free = [dim for dim, size in enumerate(sizes) if type(size) is not int or size == -1]
    channel = function(x.channel, *args, **kwargs)
    for dim in varying_dimensions(x.channel):  # those that come to lie along several dimensions go along a free one
        places = along_dimension(torch.arange(x.shape[dim]), dim, x.shape)
        spread_over = varying_dimensions(function(places, *args, **kwargs))
        chosen = [each for each in spread_over if each in free]
        if len(spread_over) > 1 and chosen:
            channel = along_dimension(recording.ties.along(channel, chosen[0]), chosen[0], channel.shape)
    channel = recording.ties.one_dimension(channel)
    if len(sizes) == channel.ndim:  # else it is the size of another tensor
        for dim in varying_dimensions(channel):
            if type(sizes[dim]) is int and sizes[dim] != -1:
                sizes[dim] = Count(_line(channel, dim))
                new = (tuple(sizes),) if packed else tuple(sizes)
                recording.sizes[node.name] = (node.op, node.target, (node.args[0], *new), {})
    return Activation(channel, function(x.value, *args, **kwargs))


def sized_as(recording: Recording, function: Handler, x: Activation, other: Activation) -> Any:
    """`expand_as`, `view_as`: to the shape of another tensor, which goes on having the size of this one."""
    channel = function(x.channel, other.channel)
    return Activation(recording.ties.tie(channel, other.channel), function(x.value, other.value))


def pixel_shuffled(recording: Recording, function: Handler, x: Activation, factor: int) -> Any:
    """Pixel shuffle: the channels that make one map are tied."""
    groups = recording.ties.along(x.channel, -3).view(-1, factor**2)
    recording.ties.tie(groups[:, :1].expand_as(groups), groups)
    value = constant_along(constant_along(x.value, -3).view(-1, factor**2), 0)
    shape, dim = recording.example.shape, recording.example.ndim - 3
    return Activation(along_dimension(groups[:, 0], dim, shape), along_dimension(value, dim, shape))


def shuffled(recording: Recording, function: Handler, x: Activation, groups: int) -> Any:
    """Channel shuffle: channels of one position in each group are tied, so that groups stay equal."""
    line = recording.ties.along(x.channel, 1).view(groups, -1)
    for row in line[1:]:
        recording.ties.tie(line[0], row)
    return moved(recording, function, x, groups)


def concatenation(recording: Recording, function: Handler, tensors: Sequence[Any], dim: int = 0, **kwargs: Any) -> Any:
    """Concatenation along any dimension; beside each other, channels are tied."""
    dim = kwargs.get("axis", dim)
    if not all(isinstance(part, Activation) for part in tensors):
        return recording.refuse(f"concatenation with a tensor {_MADE}", list(tensors))
    channels = [part.channel for part in tensors]
    _tie_beside(recording, channels, dim % channels[0].ndim)
    return Activation(concatenated(channels, dim), concatenated([part.value for part in tensors], dim))


def stacked(recording: Recording, function: Handler, tensors: Sequence[Any], dim: int = 0) -> Any:
    """Stacking along a new dimension: all channels of one place are tied."""
    if not all(isinstance(part, Activation) for part in tensors):
        return recording.refuse(f"stacking with a tensor {_MADE}", list(tensors))
    channels = [part.channel for part in tensors]
    _tie_beside(recording, channels, None)
    return Activation(torch.stack(channels, dim), torch.stack([part.value for part in tensors], dim))


def _tie_beside(recording: Recording, channels: list[Tensor], dim: int | None) -> None:
    """Ties the channels of tensors that are joined along another dimension than theirs."""
    varying = {each for channel in channels for each in varying_dimensions(channel)}
    if len(varying) == 1 and dim not in varying:
        (own,) = varying
        lines = [_line(channel, own) for channel in channels]
        for line in lines[1:]:
            recording.ties.tie(lines[0], line)


def split(recording: Recording, function: Handler, x: Activation, sections: Any, dim: int = 0, **kwargs: Any) -> Any:
    """`chunk` and `split`: parts of the channels, whose sizes are counted anew after a removal."""
    dim = dim % len(x.shape)
    channels, values = function(x.channel, sections, dim), function(x.value, sections, dim)
    if dim in varying_dimensions(x.channel):
        counts = [Count(_line(channel, dim)) for channel in channels]
        node = recording.node
        recording.sizes[node.name] = ("call_function", torch.split, (node.args[0], counts), {"dim": dim})
    return tuple(Activation(channel, value) for channel, value in zip(channels, values, strict=True))


def gated(recording: Recording, function: Handler, x: Activation, dim: int = -1) -> Any:
    """Gated linear unit: the two halves are tied."""
    dim = dim % len(x.shape)
    a, b = (
        Activation(channel, value)
        for channel, value in zip(x.channel.chunk(2, dim), x.value.chunk(2, dim), strict=True)
    )
    return multiplied(recording, torch.mul, a, Activation(b.channel, known(torch.sigmoid, b.value)))


def indexed(recording: Recording, function: Handler, x: Any, index: Any) -> Any:
    """Indexing: whole slices anywhere, contiguous slices of the channels."""
    if not isinstance(x, Activation):
        return x[index]
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(part is None or part is Ellipsis or type(part) in (int, slice) for part in parts):
        return recording.refuse("indexing by a tensor", x)
    parts = _full_index(parts, len(x.shape))
    result = moved(recording, function, x, tuple(parts))
    node = recording.node
    code = node.args[1]
    written = _full_index(list(code) if isinstance(code, tuple) else [code], len(x.shape))
    places = [place for place, part in enumerate(parts) if part is not None]
    for dim in varying_dimensions(x.channel):
        part = parts[places[dim]]
        if part == slice(None):
            continue
        if not isinstance(part, slice) or part.step not in (None, 1):
            return recording.ended(x, f"node {node.name!r} picks single channels")
        start, stop, _ = part.indices(x.shape[dim])
        line = _line(x.channel, dim)
        written[places[dim]] = slice(Count(line[:start]), Count(line[:stop]))
        recording.sizes[node.name] = ("call_function", node.target, (node.args[0], tuple(written)), {})
    return result


def padded(
    recording: Recording,
    function: Handler,
    x: Activation,
    pad: Sequence[int],
    mode: str = "constant",
    value: Any = None,
) -> Any:
    """Padding of maps; padding by further constant channels makes new ones."""
    varying = varying_dimensions(x.channel)
    shape = recording.example.shape
    fill = float(value or 0.0) if mode == "constant" else math.nan
    dim = varying[0] if varying else 0
    line, known_value, place = _line(x.channel, dim), constant_along(x.value, dim), 2 * (len(x.shape) - 1 - dim)
    before, after = (pad[place], pad[place + 1]) if place < len(pad) and varying else (0, 0)
    if mode == "constant" and any(amount for i, amount in enumerate(pad) if i // 2 != place // 2 or not varying):
        known_value = torch.where(known_value == fill, known_value, math.nan)
    if not varying:
        return Activation(along_dimension(line[:1], 0, shape), along_dimension(known_value[:1], 0, shape))
    node = recording.node
    if before or after:
        counts: list[Any] = list(node.args[1]) if isinstance(node.args[1], (tuple, list)) else []
        written = [type(count) is int for count in counts[place : place + 2]] == [True, True]
        if mode != "constant" or min(before, after) < 0 or not written:
            return recording.ended(x, f"node {node.name!r} pads channels")
        first, last = recording.ties.new(before), recording.ties.new(after)
        counts[place], counts[place + 1] = Count(first), Count(last)
        arguments = (node.args[0], counts, *node.args[2:])
        recording.sizes[node.name] = (node.op, node.target, arguments, dict(node.kwargs))
        line = torch.cat([first, line, last])
        known_value = torch.nn.functional.pad(known_value, (before, after), value=fill)
    return Activation(along_dimension(line, dim, shape), along_dimension(known_value, dim, shape))


def shape_of(recording: Recording, function: Handler, x: Activation, *args: Any) -> Any:
    """`size`, `dim`, `numel`."""
    return function(x.channel, *args)


def nothing(recording: Recording, function: Handler, *args: Any, **kwargs: Any) -> None:
    """An assertion inside a library."""


def new_constant(recording: Recording, function: Handler, x: Activation, *sizes: Any, **kwargs: Any) -> Any:
    """`new_zeros`, `new_ones`, `new_full`: a start state, whose channels are tied to what it is used with."""
    return _filled(recording, function(x.value, *sizes, **kwargs), recording.node.args[:1], recording.node.args[1:])


def made_constant(recording: Recording, function: Handler, *sizes: Any, **kwargs: Any) -> Any:
    """`torch.zeros`, `torch.ones`, `torch.full`: the same, by no tensor's method."""
    return _filled(recording, function(*sizes, **kwargs), (), recording.node.args)


def _filled(recording: Recording, made: Tensor, before: tuple[Any, ...], rest: tuple[Any, ...]) -> Any:
    """A new tensor of one number, and in whose call in the code its number of channels stands.

    Args:
        recording: What is known of the channels.
        made: The tensor.
        before: The arguments that come before its sizes in the code.
        rest: The others.
    """
    found = made.double()
    dim = 1 if found.ndim > 3 else found.ndim - 1
    packed = bool(rest) and isinstance(rest[0], (tuple, list))
    written: list[Any] = list(rest[0] if packed else rest)
    if not found.ndim or len(written) != found.ndim or type(written[dim]) is not int:
        return recording.refuse("a new tensor whose number of channels is not written in the code", before)
    line = recording.ties.new(found.shape[dim])
    written[dim] = Count(line)
    arguments = (*before, tuple(written), *rest[1:]) if packed else (*before, *written)
    node = recording.node
    recording.sizes[node.name] = (node.op, node.target, arguments, dict(node.kwargs))
    return Activation(along_dimension(line, dim, found.shape), found)


def filled_like(recording: Recording, function: Handler, x: Activation, **kwargs: Any) -> Any:
    """`zeros_like`, `ones_like`."""
    return Activation(x.channel, function(collapsed(x.value)).expand(x.shape))


def _line(channel: Tensor, dim: int) -> Tensor:
    """Channels along the dimension in which alone they differ."""
    line = collapsed(channel).movedim(dim, 0)
    return line.reshape(len(line), -1)[:, 0].expand(channel.shape[dim])


def _full_index(parts: list[Any], ndim: int) -> list[Any]:
    """An index with one entry a dimension, beside new ones."""
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    rest = [slice(None)] * (ndim - taken)
    place = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    return [*parts[:place], *rest, *parts[place + 1 :]]


def _table(handler: Handler, names: str) -> dict[str, Handler]:
    return dict.fromkeys(names.split(), handler)


FUNCTIONS: dict[str, Handler] = {
    **_table(
        pointwise,
        "relu relu6 sigmoid tanh gelu silu hardswish hardsigmoid hardtanh leaky_relu elu selu celu softplus softsign "
        "mish logsigmoid neg abs exp expm1 log log1p sqrt rsqrt square clamp clip pow sin cos erf tanhshrink "
        "softshrink hardshrink threshold sign reciprocal",
    ),
    **_table(unchanged, "contiguous clone detach cpu cuda alias"),
    **_table(cast, "float double half bfloat16 to type_as type"),
    **_table(dropout, "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"),
    "torchvision.stochastic_depth": stochastic_depth,
    **_table(joined, "add sub maximum minimum"),
    **_table(divided, "truediv div"),
    **_table(multiplied, "mul"),
    **_table(
        pooled,
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
        "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d interpolate",
    ),
    **_table(reduced, "mean sum amax amin"),
    **_table(mixing, "layer_norm group_norm local_response_norm rms_norm normalize cumsum"),
    **_table(softmax, "softmax log_softmax"),
    **_table(
        moved,
        "flatten permute transpose t squeeze unsqueeze movedim swapaxes swapdims flip repeat repeat_interleave",
    ),
    **_table(sized, "view reshape expand"),
    **_table(sized_as, "expand_as view_as reshape_as"),
    **_table(pixel_shuffled, "pixel_shuffle"),
    **_table(shuffled, "channel_shuffle"),
    **_table(concatenation, "cat concat concatenate"),
    **_table(stacked, "stack"),
    **_table(split, "chunk split"),
    **_table(gated, "glu"),
    **_table(indexed, "getitem"),
    **_table(padded, "pad"),
    **_table(shape_of, "size dim numel"),
    **_table(nothing, "assert"),
    **_table(new_constant, "new_zeros new_ones new_full"),
    **_table(filled_like, "zeros_like ones_like"),
}
"""Handler by name of function or method."""
