"""Recurrent networks, whose input and recurrent matrices are plain linear layers: GRU, LSTM, and what cells share.

A cell reads all steps of a sequence by its layer `input` at once, and goes through them one by one by `recurrent`.
Priors on ``*.weight`` and whatever else works on linear layers then work on recurrent networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.models.networks.widths import require_positive, scaled

__all__ = [
    "GRU",
    "LSTM",
    "RECURRENT_KERNELS",
    "Cell",
    "RecurrentNetwork",
    "gru",
    "gru_step",
    "lstm",
    "lstm_step",
    "recurrent_network",
    "step_by_step",
]

HIDDEN = 64
"""Hidden units of the ready recurrent networks."""

RECURRENT_KERNELS = {"rnn_tanh": "rnn-tanh", "rnn_relu": "rnn-relu", "gru": "gru", "lstm": "lstm"}
"""What torch calls the functions that run a whole layer, and the kind of layer that each runs."""


class Cell(nn.Module):
    """A recurrent cell: one step of a sequence, given what its input layer makes of all of them.

    Args:
        features: Numbers in one step of a sequence.
        hidden: Hidden units.
        blocks: Rows of `input` and `recurrent` for each hidden unit.
        bias: Whether these have biases.

    Attributes:
        input: The linear layer of the inputs, weight `(blocks x hidden, features)`.
        recurrent: That of the hidden units, weight `(blocks x hidden, hidden)`.
        features: Numbers in one step.
        hidden: Hidden units.
    """

    def __init__(self, features: int, hidden: int, blocks: int, bias: bool = True) -> None:
        super().__init__()
        self.features, self.hidden = features, hidden
        self.input = nn.Linear(features, blocks * hidden, bias=bias)
        self.recurrent = nn.Linear(hidden, blocks * hidden, bias=bias)

    def start(self, like: Tensor) -> Any:
        """The state before the first step, zeros; of as many examples, and of the dtype and device, of `like`."""
        return like.new_zeros(like.shape[0], self.hidden)

    def step(self, read: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step.

        Args:
            read: What `input` made of the step, `(N, blocks x hidden)`.
            state: The state before it, as `start` has it.

        Returns:
            The hidden units `(N, hidden)` after it, and the state.
        """
        raise NotImplementedError

    def _uniform(self) -> None:
        """All weights and biases uniform within 1 / sqrt(hidden), as torch's recurrent layers start."""
        most = 1.0 / math.sqrt(self.hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -most, most)


def gru_step(read: Tensor, own: Tensor, hidden: Tensor) -> Tensor:
    """One step of a GRU; the equations stand at `GRU`.

    Args:
        read: W x + b of the three gates, `(N, 3 x hidden)`.
        own: U h + b of the three gates, likewise.
        hidden: h, `(N, hidden)`.

    Returns:
        h', `(N, hidden)`.
    """
    read_r, read_z, read_n = read.chunk(3, dim=-1)
    own_r, own_z, own_n = own.chunk(3, dim=-1)
    r, z = torch.sigmoid(read_r + own_r), torch.sigmoid(read_z + own_z)
    n = torch.tanh(read_n + r * own_n)
    return (1.0 - z) * n + z * hidden


def lstm_step(read: Tensor, own: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM; the equations stand at `LSTM`.

    Args:
        read: W x + b of the four gates, `(N, 4 x hidden)`.
        own: U h + b of the four gates, likewise.
        memory: c, `(N, hidden)`.

    Returns:
        h' and c', each `(N, hidden)`.
    """
    i, f, g, o = (read + own).chunk(4, dim=-1)
    memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(memory), memory


def step_by_step(
    kind: str, x: Tensor, input_weight: Tensor, recurrent_weight: Tensor, input_bias: Tensor, recurrent_bias: Tensor
) -> Tensor:
    """What torch's function for a recurrent layer gives for hidden units that start at zero, by a loop over the steps.

    Args:
        kind: A value of `RECURRENT_KERNELS`.
        x: Sequences, `(N, steps, inputs)`.
        input_weight: `(gates x hidden, inputs)`.
        recurrent_weight: `(gates x hidden, hidden)`.
        input_bias: `(gates x hidden,)`.
        recurrent_bias: `(gates x hidden,)`.

    Returns:
        Hidden units after every step, `(N, steps, hidden)`.
    """
    hidden = memory = x.new_zeros(x.shape[0], recurrent_weight.shape[1])
    after = []
    for read in F.linear(x, input_weight, input_bias).unbind(1):
        own = F.linear(hidden, recurrent_weight, recurrent_bias)
        if kind == "gru":
            hidden = gru_step(read, own, hidden)
        elif kind == "lstm":
            hidden, memory = lstm_step(read, own, memory)
        else:
            hidden = torch.tanh(read + own) if kind == "rnn-tanh" else torch.relu(read + own)
        after.append(hidden)
    return torch.stack(after, 1)


class GRU(Cell):
    """Gated recurrent unit (Cho et al. 2014) by the equations of `torch.nn.GRU`, with its order of rows, r, z, n.

    r = sigmoid(W_r x + U_r h), z = sigmoid(W_z x + U_z h), n = tanh(W_n x + r (U_n h)), h' = (1 - z) n + z h, with a
    bias in each product. ``input.weight`` is torch's ``weight_ih_l0``, ``recurrent.weight`` its ``weight_hh_l0``.

    Args:
        features: Numbers in one step of a sequence.
        hidden: Hidden units.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__(features, hidden, 3)
        self._uniform()

    def step(self, read: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Cell`."""
        hidden = gru_step(read, self.recurrent(state), state)
        return hidden, hidden


class LSTM(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) by the equations of `torch.nn.LSTM`, rows i, f, g, o.

    c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c'), with i, f, g and o each W x + U h and two biases.
    ``input.weight`` is torch's ``weight_ih_l0``, ``recurrent.weight`` its ``weight_hh_l0``.

    Args:
        features: Numbers in one step of a sequence.
        hidden: Hidden units.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__(features, hidden, 4)
        self._uniform()

    def start(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden units and memory; see `Cell`."""
        return super().start(like), super().start(like)

    def step(self, read: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """See `Cell`."""
        hidden, memory = lstm_step(read, self.recurrent(state[0]), state[1])
        return hidden, (hidden, memory)


class RecurrentNetwork(nn.Module):
    """A cell over sequences of one length, and a linear layer on its hidden units after the last step.

    Args:
        cell: The cell.
        steps: Steps of a sequence.
        classes: Number of outputs.
        images: Whether inputs are images, to be read row by row from the top, all channels of a row in one step;
            default False.

    Attributes:
        cell: The cell; its matrices are ``cell.input.weight`` and ``cell.recurrent.weight``.
        head: The last layer, from hidden units to outputs.
        steps: Steps of a sequence.
        images: Whether inputs are images.
    """

    def __init__(self, cell: Cell, steps: int, classes: int, images: bool = False) -> None:
        super().__init__()
        require_positive(steps=steps, classes=classes)
        self.cell, self.steps, self.images = cell, steps, images
        self.head = nn.Linear(cell.hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `(N, classes)` for sequences `(N, steps, features)`, or images `(N, channels, steps, width)`."""
        rows = x.transpose(1, 2) if self.images else x
        # Another length is refused by the reshape: the loop is as long as `steps`, so that it can be traced.
        x = rows.reshape(x.shape[0], self.steps, self.cell.features)
        read, state, hidden = self.cell.input(x), self.cell.start(x), x
        for at in range(self.steps):
            hidden, state = self.cell.step(read[:, at], state)
        return self.head(hidden)


def recurrent_network(
    cell: Callable[[int, int], Cell], input_shape: Sequence[int], classes: int, width: float = 1.0
) -> RecurrentNetwork:
    """A network of a cell with 64 hidden units, or another multiple of them, for sequences or the rows of images.

    Args:
        cell: Makes the cell of so many features and hidden units.
        input_shape: `(steps, features)`, or `(channels, height, width)` of images.
        classes: Number of outputs.
        width: Multiplies the hidden units; they are rounded and at least 1.

    Raises:
        ValueError: If the inputs are neither, a size is below 1, or the width is not positive.
    """
    if len(input_shape) not in (2, 3):
        raise ValueError(
            f"a recurrent network got inputs of shape {tuple(input_shape)}, but it needs sequences (steps, features), "
            "or images (channels, height, width), which it reads row by row: use lenet-300-100, which takes any shape"
        )
    *channels, steps, own = input_shape
    require_positive(features=math.prod(channels) * own)
    made = cell(math.prod(channels) * own, scaled([HIDDEN], width)[0])
    return RecurrentNetwork(made, steps, classes, images=bool(channels))


def gru(input_shape: Sequence[int] = (28, 28), classes: int = 10, width: float = 1.0) -> RecurrentNetwork:
    """GRU of 64 hidden units over sequences, or the rows of images (18,698 parameters for 28 x 28).

    Args:
        input_shape: `(steps, features)`, or `(channels, height, width)` of images; default 28 steps of 28.
        classes: Number of outputs.
        width: Multiplies the hidden units; they are rounded and at least 1.

    Returns:
        A network from `(N, *input_shape)` to `(N, classes)`; there is no softmax at the end.

    Raises:
        ValueError: If the inputs have another number of dimensions, a size is below 1, or the width is not positive.
    """
    return recurrent_network(GRU, input_shape, classes, width)


def lstm(input_shape: Sequence[int] = (28, 28), classes: int = 10, width: float = 1.0) -> RecurrentNetwork:
    """LSTM of 64 hidden units over sequences, or the rows of images (24,714 parameters for 28 x 28).

    Arguments, result and errors are those of `gru`.
    """
    return recurrent_network(LSTM, input_shape, classes, width)
