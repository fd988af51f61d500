"""Recurrent layers of which only some connections exist: torch's equations, every gate with the mask of its unit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.models.networks.recurrent import step_by_step
from bayesprune.models.networks.widths import require_positive
from bayesprune.models.structure.masked_linear import MaskedLinear, tiled

__all__ = ["KINDS", "RecurrentLayer", "checked_kind"]

KINDS = {"rnn-tanh": 1, "rnn-relu": 1, "gru": 3, "lstm": 4}
"""Kinds of recurrent layers, and rows of their matrices for each hidden unit: one for every gate."""

_KERNELS: dict[str, Callable[..., Any]] = {
    "rnn-tanh": torch.rnn_tanh,
    "rnn-relu": torch.rnn_relu,
    "gru": torch.gru,
    "lstm": torch.lstm,
}
_TORCHS = {nn.GRU: "gru", nn.LSTM: "lstm"}


class RecurrentLayer(nn.Module):
    """A recurrent layer over sequences, by the equations of `torch.nn.RNN`, `GRU` and `LSTM`, with their order of rows.

    Sequences are run by torch's own kernels, as torch's layers are, at weights that are masked before; `step_by_step`
    is the same as a loop, and takes their place inside of `torch.func.vmap` and its kin, which the kernels do not know.
    Numbers all start uniform within 1 / sqrt(c), with c the recurrent connections of their unit, which are as many as
    there are units unless they are masked: as torch's layers start.

    Args:
        kind: One of `KINDS`.
        inputs: Numbers in one step of a sequence.
        hidden: Hidden units.
        input_mask: Which unit hears which input, boolean `(hidden, inputs)`, the same in every gate; default None: all.
        recurrent_mask: Which unit hears which unit of the step before, boolean `(hidden, hidden)`; default None: all.

    Attributes:
        kind: The kind.
        hidden: Hidden units.
        input: The linear layer of the inputs, weight `(gates x hidden, inputs)`: torch's ``weight_ih_l0``.
        recurrent: That of the hidden units, weight `(gates x hidden, hidden)`: torch's ``weight_hh_l0``.

    Raises:
        ValueError: If the kind is unknown, a size is below 1, or a mask has another shape.
    """

    def __init__(
        self,
        kind: str,
        inputs: int,
        hidden: int,
        input_mask: Tensor | None = None,
        recurrent_mask: Tensor | None = None,
    ) -> None:
        super().__init__()
        gates = KINDS[checked_kind(kind)]
        require_positive(inputs=inputs, hidden=hidden)
        self.kind, self.hidden = kind, hidden
        self.input = _linear(inputs, hidden, gates, input_mask, "input_mask")
        self.recurrent = _linear(hidden, hidden, gates, recurrent_mask, "recurrent_mask")
        self.reset_parameters()

    @staticmethod
    def from_torch(layer: nn.RNNBase, number: int = 0) -> RecurrentLayer:
        """One layer of torch's `nn.RNN`, `nn.GRU` or `nn.LSTM` as a layer of this kind, with a copy of its weights.

        Sequences come first in batches then, `(N, steps, inputs)`, whatever ``batch_first`` said.

        Args:
            layer: Torch's layer, in one direction and without projections.
            number: Which of its layers; default 0: the first.

        Raises:
            ValueError: If it goes in both directions, projects its hidden units, or has no such layer.
        """
        if layer.bidirectional or layer.proj_size:
            raise ValueError(
                "the layer reads in both directions or projects its hidden units, which RecurrentLayer does not: give "
                "one with bidirectional=False and proj_size=0"
            )
        if not 0 <= number < layer.num_layers:
            raise ValueError(f"layer number {number} is asked for, but there are {layer.num_layers}: count from 0")
        kind = _TORCHS.get(type(layer)) or f"rnn-{getattr(layer, 'nonlinearity', 'tanh')}"
        inputs = layer.input_size if number == 0 else layer.hidden_size
        like = layer.get_parameter("weight_ih_l0")
        made = RecurrentLayer(kind, inputs, layer.hidden_size).to(like.device, like.dtype)
        with torch.no_grad():
            for own, short in ((made.input, "ih"), (made.recurrent, "hh")):
                own.weight.copy_(layer.get_parameter(f"weight_{short}_l{number}"))
                own.bias.zero_()
                if layer.bias:
                    own.bias.copy_(layer.get_parameter(f"bias_{short}_l{number}"))
        return made

    def reset_parameters(self) -> None:
        """Draws weights and biases anew."""
        alike = self.recurrent.weight
        heard = self.recurrent.mask.sum(1) if isinstance(self.recurrent, MaskedLinear) else None
        count = alike.new_full((len(alike),), self.hidden) if heard is None else heard.clamp_min(1).to(alike.dtype)
        most = count.rsqrt()
        with torch.no_grad():
            for layer in (self.input, self.recurrent):
                drawn = (2.0 * torch.rand_like(layer.weight) - 1.0) * most[:, None]
                layer.weight.copy_(drawn * layer.mask if isinstance(layer, MaskedLinear) else drawn)
                layer.bias.copy_((2.0 * torch.rand_like(layer.bias) - 1.0) * most)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden units after every step, `(N, steps, hidden)`, of sequences `(N, steps, inputs)`."""
        numbers = self._numbers()
        if any(torch._C._functorch.is_functorch_wrapped_tensor(each) for each in (x, *numbers)):
            return self.step_by_step(x)
        start = x.new_zeros(1, x.shape[0], self.hidden)
        state = (start, start) if self.kind == "lstm" else start
        # cuDNN wants all numbers in one piece of memory, and warns of any others, such as masked ones, at every call.
        with torch.backends.cudnn.flags(enabled=False) if x.is_cuda else contextlib.nullcontext():
            # That is: with biases, one layer, no dropout, able to be differentiated, one direction, (N, steps, ...).
            found: Tensor = _KERNELS[self.kind](x, state, numbers, True, 1, 0.0, True, False, True)[0]
        return found

    def step_by_step(self, x: Tensor) -> Tensor:
        """What `forward` gives, by a loop over the steps."""
        return step_by_step(self.kind, x, *self._numbers())

    def _numbers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights, with their zeros, and biases, in torch's order."""
        return _weight(self.input), _weight(self.recurrent), self.input.bias, self.recurrent.bias

    def extra_repr(self) -> str:
        """The kind."""
        return repr(self.kind)


def checked_kind(kind: str) -> str:
    """Returns a name in `KINDS`.

    Raises:
        ValueError: If it is none.
    """
    if kind not in KINDS:
        raise ValueError(f"a recurrent layer of kind {kind!r} is unknown: expected one of {', '.join(KINDS)}")
    return kind


def _linear(inputs: int, hidden: int, gates: int, mask: Tensor | None, name: str) -> nn.Linear:
    if mask is None:
        return nn.Linear(inputs, gates * hidden)
    if tuple(mask.shape) != (hidden, inputs):
        raise ValueError(
            f"{name} has the shape {tuple(mask.shape)}, but {(hidden, inputs)} is expected, a row for each unit: "
            "gates get the same mask by themselves"
        )
    return MaskedLinear(tiled(mask, gates))


def _weight(layer: nn.Linear) -> Tensor:
    return layer.masked_weight if isinstance(layer, MaskedLinear) else layer.weight
