"""DyReLU-B: an activation whose slopes and intercepts depend on the input, and that can be faded into a plain ReLU.

Chen et al. (arXiv:2003.10027), equation 6 with K = 2, in the form in which EAST fades it (Li et al., arXiv:2411.13545,
after its code ES2): what is scaled is what the hyper-network adds to the coefficients of a ReLU, not the output.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune.models.ways.host_flag import HostFlag

__all__ = ["DyReLU"]


class DyReLU(nn.Module):
    """max over k = 1, 2 of a_k(x) x_c + b_k(x) in every channel c, with coefficients by a small hyper-network.

    Of the mean z over all positions of an input the hyper-network makes theta = 2 sigmoid(W2 relu(W1 z + b1) + b2) - 1,
    four numbers a channel in (-1, 1), and

        y_c = max((1 + beta theta_1) x_c + beta theta_3 / 2,  beta theta_2 x_c + beta theta_4 / 2).

    With beta = 0 it is a ReLU bit by bit, and calculates nothing else. Its parameters (5/4 C^2 + 17/4 C of them with
    the default reduction) are no weights: `weight_names` and `costs` leave them out, and patterns such as ``"*weight"``
    and ``"*bias"`` do not match their names. `beta` and `frozen` are moved in place, by `put` and `freeze`, and both
    executions of a fit follow.

    Args:
        channels: Channels C of its inputs.
        reduction: C divided by the hyper-network's hidden units, of which there is one at least; default 4.
        zero_start: Whether W2 and b2 start at zero, so that it starts as a ReLU; default False: as linear layers of
            PyTorch start, which is what ES2 does.

    Attributes:
        squeeze: W1, `(C / reduction, C)`.
        squeeze_shift: b1.
        excite: W2, `(4 C, C / reduction)`; rows 4 c to 4 c + 3 are theta_1 to theta_4 of channel c.
        excite_shift: b2.
        beta: What the coefficients' residuals are multiplied by, a buffer without dimensions; 1 at first.
        frozen: Whether the hyper-network gets no gradient, a boolean buffer; False at first.

    Raises:
        ValueError: If `channels` or `reduction` is below 1; in a forward pass, if the input has other than `channels`
            channels, or neither two nor four dimensions.
    """

    beta: Tensor
    frozen: Tensor

    def __init__(self, channels: int, reduction: int = 4, zero_start: bool = False) -> None:
        super().__init__()
        for name, size in (("channels", channels), ("reduction", reduction)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"DyReLU({name}=...) is a whole number, at least 1, not {size!r}")
        self.channels, hidden = channels, max(1, channels // reduction)
        self.squeeze = nn.Parameter(torch.empty(hidden, channels))
        self.squeeze_shift = nn.Parameter(torch.empty(hidden))
        self.excite = nn.Parameter(torch.empty(4 * channels, hidden))
        self.excite_shift = nn.Parameter(torch.empty(4 * channels))
        for factor, shift in ((self.squeeze, self.squeeze_shift), (self.excite, self.excite_shift)):
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5.0))  # as nn.Linear does, in its order
            bound = factor.shape[1] ** -0.5
            nn.init.uniform_(shift, -bound, bound)
        if zero_start:
            nn.init.zeros_(self.excite)
            nn.init.zeros_(self.excite_shift)
        self.register_buffer("beta", torch.ones(()))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))
        self._is_faded, self._is_frozen = HostFlag(_is_zero), HostFlag(_is_true)

    @property
    def is_faded(self) -> bool:
        """Whether beta is 0: it is a ReLU from then on."""
        return self._is_faded.of(self.beta)

    def put(self, beta: float) -> None:
        """Sets beta in place, in [0, 1]."""
        self.beta.fill_(beta)
        self._is_faded.know(self.beta, beta == 0.0)

    def freeze(self, frozen: bool = True) -> None:
        """Says in place whether the hyper-network gets no gradient, so that no optimizer moves it."""
        self.frozen.fill_(frozen)
        self._is_frozen.know(self.frozen, frozen)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, height, width)` or `(N, C)` to the same shape."""
        return F.relu(x) if self.is_faded else self.blended(x, self.residuals(x), self.beta)

    def residuals(self, x: Tensor) -> Tensor:
        """What the hyper-network makes of inputs, theta in (-1, 1), `(N, C, 4)`."""
        if x.ndim not in (2, 4) or x.shape[1] != self.channels:
            raise ValueError(
                f"this DyReLU is for inputs (N, {self.channels}, height, width) or (N, {self.channels}), not of shape "
                f"{tuple(x.shape)}: make it for as many channels as it sees"
            )
        own = (self.squeeze, self.squeeze_shift, self.excite, self.excite_shift)
        if self._is_frozen.of(self.frozen):
            own = tuple(each.detach() for each in own)  # type: ignore[assignment]
        pooled = x.mean((2, 3)) if x.ndim == 4 else x
        theta = F.linear(F.relu(F.linear(pooled, own[0], own[1])), own[2], own[3])
        return (2.0 * torch.sigmoid(theta) - 1.0).unflatten(1, (self.channels, 4))

    @staticmethod
    def blended(x: Tensor, theta: Tensor, beta: Tensor | float) -> Tensor:
        """The activation at given residuals.

        Args:
            x: Inputs, `(N, C, height, width)` or `(N, C)`.
            theta: Residuals of slopes and intercepts, `(N, C, 4)`.
            beta: What they are multiplied by.
        """
        added = beta * (theta if x.ndim == 2 else theta[:, :, None, None, :])
        slope1, slope2, shift1, shift2 = added.unbind(-1)
        return torch.maximum((1.0 + slope1) * x + 0.5 * shift1, slope2 * x + 0.5 * shift2)

    def extra_repr(self) -> str:
        """Its channels, as it prints."""
        return str(self.channels)


def _is_zero(beta: Tensor) -> Tensor:
    return beta == 0.0


def _is_true(flag: Tensor) -> Tensor:
    return flag
