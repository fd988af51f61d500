"""Roots of the curvature of a loss in a network's outputs, which derivatives of the outputs are multiplied by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.models.likelihoods.likelihood import Likelihood

__all__ = ["CURVATURES", "Root", "check_curvature", "curvature_roots"]

CURVATURES = ("gauss-newton", "sampled", "empirical")
MOST_OUTPUTS = 64
"""Outputs of one example whose curvature is taken exactly: it takes a backward pass for each of them."""
NOTHING = 1e-12
"""Share of the largest eigenvalue below which one is nothing: logits of a softmax have one that is zero."""


@dataclass(frozen=True)
class Root:
    """One term of the curvature: d^2 loss / dg^2 is the sum over roots of sign * (vector . d outputs / dg)^2.

    Attributes:
        vector: What derivatives of the outputs are multiplied by, `(n, ...)` as the outputs.
        sign: 1 or -1 for each example, `(n,)`; 1 throughout where the loss is convex in the outputs.
    """

    vector: Tensor
    sign: Tensor


def check_curvature(curvature: str) -> None:
    """Refuses unknown words.

    Raises:
        ValueError: If it is none of `CURVATURES`.
    """
    if curvature not in CURVATURES:
        raise ValueError(f"curvature= takes one of {', '.join(CURVATURES)}, not {curvature!r}")


def curvature_roots(
    likelihood: Likelihood, outputs: Tensor, y: Tensor, curvature: str, generator: torch.Generator
) -> Iterator[Root]:
    """The roots at given outputs.

    ``"gauss-newton"``: J' H J with the exact Hessian H of minus the log-likelihood in the outputs, by its
    eigenvectors: the second derivative itself wherever outputs are linear in the gate. Of labels under logits,
    counts under log rates and real numbers of a known noise, H does not depend on the target and J' H J is the Fisher
    information, the expectation over the model's own labels (Martens 2020, section 9).
    ``"sampled"``: one target an example is drawn from the model: an unbiased estimate of the Fisher information.
    ``"empirical"``: the squared derivative at the target that there is: the empirical Fisher information (Kunstner,
    Balles & Hennig 2019 on what that changes).

    Args:
        likelihood: What outputs mean.
        outputs: Outputs of the network, `(n, ...)`.
        y: Targets.
        curvature: One of `CURVATURES`.
        generator: Of the labels that are drawn.

    Raises:
        ValueError: If the exact curvature would take more than 64 backward passes.
    """
    at = outputs.detach().requires_grad_()
    plus = torch.ones(len(at), dtype=at.dtype, device=at.device)
    if curvature != "gauss-newton":
        with torch.no_grad():
            target = y if curvature == "empirical" else _sampled(likelihood, at, generator)
        with torch.enable_grad():
            loss = -likelihood.log_prob(at, target).sum()
        yield Root(torch.autograd.grad(loss, at)[0], plus)
        return
    values, vectors = torch.linalg.eigh(_hessian(likelihood, at, y))
    size = values.abs()
    least = NOTHING * float(size.max()) if size.numel() else 0.0
    for place in range(values.shape[1]):
        if float(size[:, place].max()) > least:
            vector = vectors[:, :, place] * size[:, place, None].sqrt()
            yield Root(vector.view_as(at).to(at.dtype), torch.where(values[:, place] < 0, -1.0, 1.0).to(at.dtype))


def _hessian(likelihood: Likelihood, at: Tensor, y: Tensor) -> Tensor:
    """Second derivatives of each example's loss in its outputs, `(n, c, c)`, in float64."""
    wide = at.detach().double().requires_grad_()
    count = wide[0].numel()
    if count > MOST_OUTPUTS:
        raise ValueError(
            f"curvature='gauss-newton' takes a backward pass for each of {count} outputs: give 'sampled', which takes "
            "one, or 'empirical'"
        )
    with torch.enable_grad():
        loss = -likelihood.log_prob(wide, y.double() if y.is_floating_point() else y).sum()
        slope = torch.autograd.grad(loss, wide, create_graph=True)[0].reshape(len(wide), count)
        rows = []
        for place in range(count):
            found = None
            if slope.requires_grad:
                found = torch.autograd.grad(slope[:, place].sum(), wide, retain_graph=True, allow_unused=True)[0]
            rows.append(torch.zeros_like(wide) if found is None else found)
    hessian = torch.stack([row.detach().reshape(len(wide), count) for row in rows], dim=1)
    return 0.5 * (hessian + hessian.mT)


def _sampled(likelihood: Likelihood, outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Targets drawn from the model, by the generator; the global random state is left as it was."""
    devices = [outputs.device] if outputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        drawn: Tensor = likelihood.distribution(outputs).sample()
    return drawn
