"""Residual networks whose later blocks use the convolutions of an earlier one, each scaled by a number of its own.

Weight sharing of EAST (Li et al., arXiv:2411.13545, after its code ES2): at extreme sparsity the same number of weights
then stands in about half as many tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune.models.networks.residual_blocks import activations_of, convolutions_of, is_residual, normalisations_of

__all__ = ["SHARED", "SharedBlock", "extra_weights", "share_blocks"]

SHARED = "shared_blocks"
"""Key of `network.config` that says how many blocks of a stage own their convolutions."""


class SharedBlock(nn.Module):
    """A residual block of stride 1 without convolutions of its own: those of a donor, each times a number.

    Args:
        block: The block in whose place it stands; its normalisations and activations are taken over.
        donor: The block whose convolutions it uses, as they are when it runs.

    Attributes:
        scales: What the donor's convolutions are multiplied by, in their order; Uniform(0, 1) at first.
        donor: The donor, in a tuple, so that its parameters are not this block's.
    """

    def __init__(self, block: nn.Module, donor: nn.Module) -> None:
        super().__init__()
        reference = next(donor.parameters())
        self.donor, self.places = (donor,), len(convolutions_of(donor))
        self.scales = nn.Parameter(torch.rand(self.places, device=reference.device, dtype=reference.dtype))
        parts = zip(normalisations_of(block), activations_of(block), strict=True)
        for place, (normalisation, activation) in enumerate(parts, start=1):
            self.add_module(f"bn{place}", normalisation)
            self.add_module(f"relu{place}", activation)
        self.training = block.training

    @property
    def shared(self) -> list[Tensor]:
        """The donor's weights, `(out, in, height, width)` each."""
        return [convolution.weight for convolution in convolutions_of(self.donor[0])]

    def forward(self, x: Tensor) -> Tensor:
        """`(N, channels, height, width)` to the same shape."""
        h = x
        for place in range(1, self.places + 1):
            own = getattr(self.donor[0], f"conv{place}")
            weight = self.scales[place - 1] * own.weight
            h = F.conv2d(h, weight, None, own.stride, own.padding, own.dilation, own.groups)
            h = getattr(self, f"bn{place}")(h)
            if place == self.places:
                h = h + x
            h = getattr(self, f"relu{place}")(h)
        return h


def share_blocks(network: nn.Module, owned: int = 2) -> nn.Module:
    """A copy of a residual network in which only the first blocks of each stage own convolutions.

    Later ones use those of the last that does, each times a scalar that is learned, with normalisation and activations
    of their own. The scalars and what is not shared have no other names than before.

    Args:
        network: A residual network of this package (``resnet-20`` and its kin, and torchvision's in both forms).
        owned: Blocks of a stage that own their convolutions; default 2.

    Raises:
        ValueError: In one sentence, if `owned` is below 1, the network has no residual stages or shares already, no
            stage has more blocks, or blocks are of another shape than the one whose convolutions they would use.
    """
    if isinstance(owned, bool) or not isinstance(owned, int) or owned < 1:
        raise ValueError(f"share_blocks(owned=...) is a whole number of blocks of a stage, at least 1, not {owned!r}")
    made = copy.deepcopy(network)
    if any(isinstance(module, SharedBlock) for module in made.modules()):
        raise ValueError("the network shares blocks already: hand in the one without")
    stages = {name: module for name, module in made.named_modules() if _is_stage(module)}
    if not stages:
        raise ValueError(
            "the network has no residual stages that could share blocks: take resnet-20, resnet-34 or their kin"
        )
    most = max(len(stage) for stage in stages.values())
    if most <= owned:
        raise ValueError(
            f"no stage has more than {most} blocks, so that with owned={owned} none would be shared: take a deeper "
            "network, such as resnet-20 or resnet-34 with owned=2"
        )
    for name, stage in stages.items():
        for place in range(owned, len(stage)):
            donor, block = stage[owned - 1], stage[place]
            _check_alike(f"{name}.{place}", block, f"{name}.{owned - 1}", donor, owned)
            stage[place] = SharedBlock(block, donor)
    config = getattr(made, "config", None)
    if isinstance(config, dict):
        made.config = {**config, SHARED: owned}  # type: ignore[assignment]
    return made


def extra_weights(network: nn.Module, names: Collection[str] | None = None) -> int:
    """How many weights more the network would have if shared blocks owned theirs (N_s of the paper).

    Args:
        network: The network.
        names: Names of the tensors that count; default None: all.
    """
    counted = {id(p) for name, p in network.named_parameters() if names is None or name in names}
    shared = [weight for module in network.modules() if isinstance(module, SharedBlock) for weight in module.shared]
    return sum(weight.numel() for weight in shared if id(weight) in counted)


def _is_stage(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and len(module) > 0 and all(is_residual(block) for block in module)


def _check_alike(name: str, block: nn.Module, giver: str, donor: nn.Module, owned: int) -> None:
    """Refuses a donor whose convolutions do not do what the block's own do, and blocks that are not stride 1."""
    theirs, own = convolutions_of(donor), convolutions_of(block)
    alike = [
        a.weight.shape == b.weight.shape and (a.stride, a.padding, a.dilation) == (b.stride, b.padding, b.dilation)
        for a, b in zip(theirs, own, strict=True)
    ]
    if not all(alike) or any(one.bias is not None for one in (*theirs, *own)):
        raise ValueError(
            f"{name} cannot use the convolutions of {giver}, which are of another shape or stride, or have biases: "
            f"share_blocks(owned={max(owned + 1, 2)}) leaves it its own"
        )
