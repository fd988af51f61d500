"""How channels pass through functions and methods of tensors; each a `handler(trace, function, *arguments)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayesprune.models.activation import (
    Activation,
    along_dimension,
    collapsed,
    concatenated,
    is_unknown,
    known,
    unknown,
    varying_dimensions,
)
from bayesprune.models.channel_records import Count

if TYPE_CHECKING:
    from bayesprune.models.channel_trace import ChannelTrace

Handler = Callable[..., Any]


def pointwise(trace: ChannelTrace, function: Handler, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A function of each number by itself."""
    if not isinstance(x, Activation) or any(torch.is_tensor(a) or isinstance(a, Activation) for a in args):
        return trace.refuse("a function with several tensors", (x, args, kwargs))
    return Activation(x.channel, known(lambda part: function(part, *args, **kwargs), x.value))


def unchanged(trace: ChannelTrace, function: Handler, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """A function that does nothing to the numbers."""
    return x


def dropout(
    trace: ChannelTrace, function: Handler, x: Activation, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Dropout; the functional form is active in evaluation mode too unless its code says otherwise."""
    return trace.refuse("dropout that stays active in evaluation mode", x) if training else x


def stochastic_depth(trace: ChannelTrace, function: Handler, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """Torchvision's stochastic depth, which does nothing in evaluation mode."""
    training = kwargs.get("training", args[2] if len(args) > 2 else True)
    return trace.refuse("stochastic depth that stays active in evaluation mode", x) if training else x


def joined(trace: ChannelTrace, function: Handler, a: Any, b: Any, **kwargs: Any) -> Any:
    """A function of two activations, number by number: their channels are tied."""
    if any(torch.is_tensor(part) and part.numel() > 1 for part in (a, b)):
        return trace.refuse("a tensor made inside forward", (a, b))
    if not (isinstance(a, Activation) and isinstance(b, Activation)):
        x = a if isinstance(a, Activation) else b
        left, right = (part.value if isinstance(part, Activation) else part for part in (a, b))
        return Activation(x.channel, function(left, right, **kwargs))
    one, other = torch.broadcast_tensors(a.value, b.value)
    value = function(one, other, **kwargs)
    return Activation(trace.ties.tie(a.channel, b.channel), value)


def multiplied(trace: ChannelTrace, function: Handler, a: Any, b: Any) -> Any:
    """A product: zero times anything is zero."""
    result = joined(trace, function, a, b)
    if isinstance(a, Activation) and isinstance(b, Activation) and isinstance(result, Activation):
        zero = (a.value == 0) | (b.value == 0)
        return Activation(result.channel, torch.where(zero, 0.0, result.value))
    return result


def pooled(trace: ChannelTrace, function: Handler, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """Pooling, interpolation: works on each map by itself, dimension 1 is that of the maps."""
    made = trace.node.meta["example"]
    if not torch.is_tensor(made) or made.ndim < 3:
        return trace.refuse("pooling with indices, or of something without a batch", x)
    line = trace.ties.along(x.channel, 1)
    value = unknown(made.shape) if is_unknown(x.value) else function(x.value, *args, **kwargs)
    return Activation(along_dimension(line, 1, made.shape), value)


def reduced(
    trace: ChannelTrace, function: Handler, x: Activation, dim: Any = None, keepdim: bool = False, **kwargs: Any
) -> Any:
    """A mean, sum or maximum over positions; over channels it ends them."""
    dims = tuple(range(len(x.shape))) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    dims = tuple(d % len(x.shape) for d in dims)
    if set(dims) & set(varying_dimensions(x.channel)):
        return trace.ended(x, f"node {trace.node.name!r} adds up over channels")
    channel = x.channel
    for d in dims:
        channel = channel.narrow(d, 0, 1)
    if not keepdim:
        channel = channel.squeeze(dims)
    return Activation(channel, function(x.value, dims, keepdim, **kwargs))


def mixing(trace: ChannelTrace, function: Handler, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """A function whose result at one channel depends on all: removing one would change the others."""
    name = getattr(function, "__name__", "function")
    return trace.ended((x, args, kwargs), f"node {trace.node.name!r} mixes channels ({name})")


def softmax(trace: ChannelTrace, function: Handler, x: Activation, dim: int | None = None, **kwargs: Any) -> Any:
    """A softmax over positions keeps channels apart; over channels it ends them."""
    if dim is None or dim % len(x.shape) in varying_dimensions(x.channel):
        return mixing(trace, function, x)
    return Activation(x.channel, unknown(x.shape))


def moved(trace: ChannelTrace, function: Handler, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """A function that only moves numbers about."""
    return Activation(function(x.channel, *args, **kwargs), function(x.value, *args, **kwargs))


def sized(trace: ChannelTrace, function: Handler, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """`view`, `reshape`, `expand`: moves numbers to a shape that the code may write out."""
    if function is Tensor.view and not isinstance(args[0], torch.dtype):
        function = Tensor.reshape  # what is expanded here may be contiguous there
    channel = trace.ties.one_dimension(function(x.channel, *args, **kwargs))
    result = Activation(channel, function(x.value, *args, **kwargs))
    node = trace.node
    if kwargs or not args:
        return result
    packed = isinstance(node.args[1], (tuple, list))
    sizes = list(node.args[1] if packed else node.args[1:])  # type: ignore[arg-type]
    offset = channel.ndim - len(sizes)
    for dim in varying_dimensions(channel):
        if type(sizes[dim - offset]) is int and sizes[dim - offset] != -1:
            sizes[dim - offset] = Count(_line(channel, dim))
            trace.sizes[node.name] = (
                node.op,
                node.target,
                (node.args[0], tuple(sizes)) if packed else (node.args[0], *sizes),
                dict(node.kwargs),
            )
    return result


def shuffled(trace: ChannelTrace, function: Handler, x: Activation, groups: int) -> Any:
    """Channel shuffle: channels of one position in each group are tied, so that groups stay equal."""
    line = trace.ties.along(x.channel, 1).view(groups, -1)
    for row in line[1:]:
        trace.ties.tie(line[0], row)
    return moved(trace, function, x, groups)


def concatenation(trace: ChannelTrace, function: Handler, tensors: Sequence[Any], dim: int = 0, **kwargs: Any) -> Any:
    """Concatenation along any dimension."""
    dim = kwargs.get("axis", dim)
    if not all(isinstance(part, Activation) for part in tensors):
        return trace.refuse("concatenation with a tensor made inside forward", list(tensors))
    return Activation(
        concatenated([part.channel for part in tensors], dim), concatenated([part.value for part in tensors], dim)
    )


def stacked(trace: ChannelTrace, function: Handler, tensors: Sequence[Any], dim: int = 0) -> Any:
    """Stacking along a new dimension."""
    if not all(isinstance(part, Activation) for part in tensors):
        return trace.refuse("stacking with a tensor made inside forward", list(tensors))
    return Activation(
        torch.stack([part.channel for part in tensors], dim), torch.stack([part.value for part in tensors], dim)
    )


def split(trace: ChannelTrace, function: Handler, x: Activation, sections: Any, dim: int = 0, **kwargs: Any) -> Any:
    """`chunk` and `split`: parts of the channels, whose sizes are counted anew after a removal."""
    dim = dim % len(x.shape)
    channels, values = function(x.channel, sections, dim), function(x.value, sections, dim)
    if dim in varying_dimensions(x.channel):
        counts = [Count(_line(channel, dim)) for channel in channels]
        trace.sizes[trace.node.name] = ("call_function", torch.split, (trace.node.args[0], counts), {"dim": dim})
    return tuple(Activation(channel, value) for channel, value in zip(channels, values, strict=True))


def gated(trace: ChannelTrace, function: Handler, x: Activation, dim: int = -1) -> Any:
    """Gated linear unit: the two halves are tied."""
    dim = dim % len(x.shape)
    a, b = (
        Activation(channel, value)
        for channel, value in zip(x.channel.chunk(2, dim), x.value.chunk(2, dim), strict=True)
    )
    return multiplied(trace, torch.mul, a, Activation(b.channel, known(torch.sigmoid, b.value)))


def indexed(trace: ChannelTrace, function: Handler, x: Any, index: Any) -> Any:
    """Indexing: whole slices anywhere, contiguous slices of the channels."""
    if not isinstance(x, Activation):
        return x[index]
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts):
        return trace.refuse("indexing by a tensor", x)
    parts = _full_index(parts, len(x.shape))
    result = moved(trace, function, x, tuple(parts))
    places = [place for place, part in enumerate(parts) if part is not None]
    for dim in varying_dimensions(x.channel):
        part = parts[places[dim]]
        if part == slice(None):
            continue
        if not isinstance(part, slice) or part.step not in (None, 1):
            return trace.ended(x, f"node {trace.node.name!r} picks single channels")
        start, stop, _ = part.indices(x.shape[dim])
        line = _line(x.channel, dim)
        parts[places[dim]] = slice(Count(line[:start]), Count(line[:stop]))
        trace.sizes[trace.node.name] = ("call_function", trace.node.target, (trace.node.args[0], tuple(parts)), {})
    return result


def padded(
    trace: ChannelTrace, function: Handler, x: Activation, pad: Sequence[int], mode: str = "constant", value: Any = None
) -> Any:
    """Padding of maps; padding by further constant channels makes new ones."""
    varying = varying_dimensions(x.channel)
    filled = torch.nn.functional.pad(x.value, list(pad), mode, value)
    if not varying:
        return Activation(along_dimension(x.channel.reshape(-1)[:1], 0, tuple(filled.shape)), filled)
    (dim,) = varying
    line, place = _line(x.channel, dim), 2 * (len(x.shape) - 1 - dim)
    before, after = (pad[place], pad[place + 1]) if place < len(pad) else (0, 0)
    if before or after:
        if mode != "constant" or min(before, after) < 0 or not all(type(p) is int for p in trace.node.args[1]):  # type: ignore[union-attr]
            return trace.ended(x, f"node {trace.node.name!r} pads channels")
        first, last = trace.ties.new(before), trace.ties.new(after)
        counts: list[Any] = list(pad)
        counts[place], counts[place + 1] = Count(first), Count(last)
        trace.sizes[trace.node.name] = (
            trace.node.op,
            trace.node.target,
            (trace.node.args[0], counts, *trace.node.args[2:]),
            dict(trace.node.kwargs),
        )
        line = torch.cat([first, line, last])
    return Activation(along_dimension(line, dim, filled.shape), filled)


def shape_of(trace: ChannelTrace, function: Handler, x: Activation, *args: Any) -> Any:
    """`size`, `dim`, `numel`."""
    return function(x.channel, *args)


def nothing(trace: ChannelTrace, function: Handler, *args: Any, **kwargs: Any) -> None:
    """An assertion inside a library."""


def new_constant(trace: ChannelTrace, function: Handler, x: Activation, *sizes: Any, **kwargs: Any) -> Any:
    """`new_zeros`, `new_ones`: a start state, whose channels are tied to what it is used with."""
    found = function(x.value, *sizes, **kwargs)
    line = trace.ties.new(found.shape[-1])
    node = trace.node
    packed = isinstance(node.args[1], (tuple, list))
    written = list(node.args[1] if packed else node.args[1:])  # type: ignore[arg-type]
    if type(written[-1]) is int:
        written[-1] = Count(line)
        arguments = (node.args[0], tuple(written)) if packed else (node.args[0], *written)
        trace.sizes[node.name] = (node.op, node.target, arguments, dict(node.kwargs))
    return Activation(along_dimension(line, found.ndim - 1, found.shape), found.double())


def filled_like(trace: ChannelTrace, function: Handler, x: Activation, **kwargs: Any) -> Any:
    """`zeros_like`, `ones_like`."""
    return Activation(x.channel, function(collapsed(x.value)).expand(x.shape))


def _line(channel: Tensor, dim: int) -> Tensor:
    """Channels along the dimension in which alone they differ."""
    line = collapsed(channel).movedim(dim, 0).flatten(1)[:, 0]
    return line.expand(channel.shape[dim])


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
    **_table(unchanged, "contiguous clone detach float double half bfloat16 to type_as type cpu cuda alias"),
    **_table(dropout, "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"),
    "torchvision.stochastic_depth": stochastic_depth,
    **_table(joined, "add sub truediv div maximum minimum"),
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
        "flatten permute transpose t squeeze unsqueeze movedim swapaxes swapdims flip repeat repeat_interleave "
        "pixel_shuffle",
    ),
    **_table(sized, "view reshape expand"),
    **_table(shuffled, "channel_shuffle"),
    **_table(concatenation, "cat concat concatenate"),
    **_table(stacked, "stack"),
    **_table(split, "chunk split"),
    **_table(gated, "glu"),
    **_table(indexed, "getitem"),
    **_table(padded, "pad"),
    **_table(shape_of, "size dim numel"),
    **_table(nothing, "assert"),
    **_table(new_constant, "new_zeros new_ones"),
    **_table(filled_like, "zeros_like ones_like"),
}
"""Handler by name of function or method."""
