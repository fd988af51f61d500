"""Recurrent layers through all steps of a sequence: by torch's functions, or by gradients that are written by hand.

On a CPU torch's functions run GRU and plain recurrent layers, and their gradients, operation by operation; for the
small layers of a graph nearly all the time is spent in starting operations. Here a step has few of them: what does not
depend on the step before is calculated for all steps at once. A GRU of 5 units takes half of the time, one of 50 a
sixth less. torch's LSTM is one operation, and is left to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.overrides import handle_torch_function, has_torch_function

from bayesprune.models.networks.recurrent import step_by_step

__all__ = ["through_time"]

_KERNELS: dict[str, Callable[..., Any]] = {
    "rnn-tanh": torch.rnn_tanh,
    "rnn-relu": torch.rnn_relu,
    "gru": torch.gru,
    "lstm": torch.lstm,
}


def through_time(
    kind: str, x: Tensor, input_weight: Tensor, recurrent_weight: Tensor, input_bias: Tensor, recurrent_bias: Tensor
) -> Tensor:
    """What `step_by_step` gives, sooner; arguments and result are those.

    GRU and plain layers on a CPU go by the steps of this file, all else by torch's functions; inside of
    `torch.func.vmap` and its kin, which know neither, by `step_by_step`, and so an LSTM where it is traced on a CPU, as
    a graph has not what torch's one keeps for its gradient. Modes and stand-ins of tensors see this
    function as they see torch's.
    """
    numbers = (input_weight, recurrent_weight, input_bias, recurrent_bias)
    if has_torch_function((x, *numbers)):
        seen: Tensor = handle_torch_function(through_time, (x, *numbers), kind, x, *numbers)
        return seen
    on_cpu = x.device.type == "cpu"
    traced_lstm = on_cpu and kind == "lstm" and get_proxy_mode() is not None
    if traced_lstm or any(torch._C._functorch.is_functorch_wrapped_tensor(each) for each in (x, *numbers)):
        return step_by_step(kind, x, *numbers)
    if on_cpu and kind != "lstm":
        own: Tensor = _Gru.apply(x, *numbers) if kind == "gru" else _Rnn.apply(kind, x, *numbers)
        return own
    start = x.new_zeros(1, x.shape[0], recurrent_weight.shape[1])
    state = (start, start) if kind == "lstm" else start
    # cuDNN wants all numbers in one piece of memory, and warns of any others, such as masked ones, at every call.
    with torch.backends.cudnn.flags(enabled=False) if x.is_cuda else contextlib.nullcontext():
        # That is: with biases, one layer, no dropout, able to be differentiated, one direction, (N, steps, ...).
        found: Tensor = _KERNELS[kind](x, state, numbers, True, 1, 0.0, True, False, True)[0]
    return found


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, u: Tensor, b: Tensor, c: Tensor) -> Tensor:
        size = u.shape[1]
        read, turned = F.linear(x.transpose(0, 1), w, b), u.t()
        read_gates, read_new = read[..., : 2 * size], read[..., 2 * size :]
        hidden = x.new_zeros(x.shape[0], size)
        kept: list[list[Tensor]] = [[], [], [], [hidden]]
        for of_gates, of_new in zip(read_gates.unbind(0), read_new.unbind(0), strict=True):
            own = torch.addmm(c, hidden, turned)
            own_new = own[:, 2 * size :]
            gates = torch.sigmoid(of_gates + own[:, : 2 * size])
            new = torch.tanh(torch.addcmul(of_new, gates[:, :size], own_new))
            hidden = torch.lerp(new, hidden, gates[:, size:])
            for part, value in zip(kept, (gates, new, own_new, hidden), strict=True):
                part.append(value)
        gates, new, own_new, states = (torch.stack(part) for part in kept)
        ctx.save_for_backward(x, w, u, b, c, gates, new, own_new, states)
        return states[1:].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        x, w, u, b, c, gates, new, own_new, states = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient that is to be differentiated itself
            return _by_autograd("gru", (x, w, u, b, c), slopes[0])
        size = u.shape[1]
        reset, update, before = gates[..., :size], gates[..., size:], states[:-1]
        to_new = (1.0 - update) * (1.0 - new.square())
        to_update = (before - new) * update * (1.0 - update)
        to_reset = to_new * own_new * reset * (1.0 - reset)
        # Slopes of what the recurrent matrix gives, in order r, z, n, as factors of the slope of a step's hidden units.
        factors = torch.stack((to_reset, to_update, to_new * reset), 2)
        slope = torch.zeros_like(states[0])
        own: list[Tensor] = []
        hidden: list[Tensor] = []
        for given, factor, kept in zip(
            reversed(slopes[0].unbind(1)), reversed(factors.unbind(0)), reversed(update.unbind(0)), strict=True
        ):
            slope = slope + given
            one = (factor * slope.unsqueeze(1)).flatten(1)
            own.append(one)
            hidden.append(slope)
            slope = torch.addmm(slope * kept, one, u)
        of_own, of_hidden = torch.stack(own[::-1]), torch.stack(hidden[::-1])
        of_read = torch.cat((of_own[..., : 2 * size], of_hidden * to_new), 2)
        return _slopes(x, w, of_read, of_own, before)


class _Rnn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kind: str, x: Tensor, w: Tensor, u: Tensor, b: Tensor, c: Tensor) -> Tensor:
        activation, turned = torch.tanh if kind == "rnn-tanh" else torch.relu, u.t()
        hidden = x.new_zeros(x.shape[0], u.shape[1])
        states = [hidden]
        for read in F.linear(x.transpose(0, 1), w, b + c).unbind(0):
            hidden = activation(torch.addmm(read, hidden, turned))
            states.append(hidden)
        kept = torch.stack(states)
        ctx.kind = kind
        ctx.save_for_backward(x, w, u, b, c, kept)
        return kept[1:].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        x, w, u, b, c, states = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_by_autograd(ctx.kind, (x, w, u, b, c), slopes[0])
        after = states[1:]
        factors = 1.0 - after.square() if ctx.kind == "rnn-tanh" else (after > 0).to(after.dtype)
        slope = torch.zeros_like(states[0])
        own: list[Tensor] = []
        for given, factor in zip(reversed(slopes[0].unbind(1)), reversed(factors.unbind(0)), strict=True):
            one = (slope + given) * factor
            own.append(one)
            slope = one @ u
        of_own = torch.stack(own[::-1])
        return None, *_slopes(x, w, of_own, of_own, states[:-1])


def _slopes(x: Tensor, w: Tensor, of_read: Tensor, of_own: Tensor, before: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the inputs, the two matrices and the two biases, all steps at once.

    Args:
        x: Inputs, `(N, steps, inputs)`.
        w: The input matrix.
        of_read: Slopes of what it gives, `(steps, N, gates x hidden)`.
        of_own: Those of what the recurrent matrix gives, likewise.
        before: Hidden units before each step, `(steps, N, hidden)`.
    """
    read, own = of_read.flatten(0, 1), of_own.flatten(0, 1)
    to_x = (of_read @ w).transpose(0, 1)
    to_w = read.t() @ x.transpose(0, 1).flatten(0, 1)
    return to_x, to_w, own.t() @ before.flatten(0, 1), read.sum(0), own.sum(0)


def _by_autograd(kind: str, inputs: tuple[Tensor, ...], slope: Tensor) -> tuple[Tensor | None, ...]:
    """The same gradients by autograd, through which it can go on."""
    with torch.enable_grad():
        asked = [part for part in inputs if part.requires_grad]
        slopes = iter(torch.autograd.grad(step_by_step(kind, *inputs), asked, slope, create_graph=True))
    return tuple(next(slopes) if part.requires_grad else None for part in inputs)
