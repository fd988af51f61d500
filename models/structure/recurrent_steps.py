"""Recurrent layers through all steps of a sequence, by torch's own functions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
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

    By torch's functions but inside of `torch.func.vmap` and its kin, which do not know them, and for an LSTM that is
    traced on a CPU, as a graph has not what torch's one keeps for its gradient: there by `step_by_step`. Modes and
    stand-ins of tensors see this function as they see torch's.
    """
    numbers = (input_weight, recurrent_weight, input_bias, recurrent_bias)
    if has_torch_function((x, *numbers)):
        seen: Tensor = handle_torch_function(through_time, (x, *numbers), kind, x, *numbers)
        return seen
    traced_lstm = kind == "lstm" and x.device.type == "cpu" and get_proxy_mode() is not None
    if traced_lstm or any(torch._C._functorch.is_functorch_wrapped_tensor(each) for each in (x, *numbers)):
        return step_by_step(kind, x, *numbers)
    start = x.new_zeros(1, x.shape[0], recurrent_weight.shape[1])
    state = (start, start) if kind == "lstm" else start
    # cuDNN wants all numbers in one piece of memory, and warns of any others, such as masked ones, at every call.
    with torch.backends.cudnn.flags(enabled=False) if x.is_cuda else contextlib.nullcontext():
        # That is: with biases, one layer, no dropout, able to be differentiated, one direction, (N, steps, ...).
        found: Tensor = _KERNELS[kind](x, state, numbers, True, 1, 0.0, True, False, True)[0]
    return found
