"""Sums of the terms of steps, which stay on their device until somebody has to know them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.inference.objective.objective import Terms

__all__ = ["StepSums", "Unread"]


@dataclass(frozen=True)
class Unread:
    """What a step came to, on its device.

    Attributes:
        step: Its number, from 1.
        kl_weight: Its factor on the KL term.
        log_likelihood: Full-data nats.
        kl: Full-data nats.
        kl_of: Its parts by site.
    """

    step: int
    kl_weight: float
    log_likelihood: Tensor
    kl: Tensor
    kl_of: dict[str, Tensor]

    def first_bad(self) -> str:
        """The part of the loss that is not finite: the site of a term, or empty for the log-likelihood."""
        return next((site for site, term in self.kl_of.items() if not bool(torch.isfinite(term).all())), "")


class StepSums:
    """Sums over the steps of an epoch, and of those since the last recorded iterate.

    Reading a number of a GPU waits for it. So steps are added unread, and read together when a record is due; on a CPU,
    where nothing waits, at once.

    Args:
        mean: The mean of a tensor over all processes (`Runtime.mean`).

    Attributes:
        taken: Steps added since `begin_epoch`.
        sums: Sums of them by name: loss, expected_log_likelihood and kl, in full-data nats.
        chunk: Negative ELBO of each step since it was emptied.
    """

    def __init__(self, mean: Callable[[Tensor], Tensor]) -> None:
        self._mean = mean
        self._unread: list[Unread] = []
        self.chunk: list[float] = []
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Sums begin at zero."""
        self.taken = 0
        self.sums = {"loss": 0.0, "expected_log_likelihood": 0.0, "kl": 0.0}

    def add(self, step: int, kl_weight: float, terms: Terms) -> None:
        """Adds a step.

        Args:
            step: Its number, from 1.
            kl_weight: Its factor on the KL term.
            terms: What it came to.
        """
        parts = {site: term.detach() for site, term in terms.kl_of.items()}
        self._unread.append(Unread(step, kl_weight, terms.log_likelihood, terms.kl, parts))
        self.taken += 1

    @property
    def waits(self) -> bool:
        """Whether reading the last step would wait for a device."""
        return bool(self._unread) and self._unread[-1].kl.device.type != "cpu"

    def read(self) -> Unread | None:
        """Reads what is unread; returns the first step whose loss is not finite, or None.

        The steps before it are summed.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return None
        numbers = self._mean(torch.stack([value for one in unread for value in (one.log_likelihood, one.kl)])).tolist()
        for one, likelihood, kl in zip(unread, numbers[::2], numbers[1::2], strict=True):
            if not abs(kl - likelihood) < float("inf"):
                return one
            self.chunk.append(kl - likelihood)
            self.sums["loss"] += one.kl_weight * kl - likelihood
            self.sums["expected_log_likelihood"] += likelihood
            self.sums["kl"] += kl
        return None

    def mean_chunk(self) -> float:
        """Mean negative ELBO of the steps since the last record, which begins anew."""
        chunk, self.chunk = self.chunk, []
        return sum(chunk) / len(chunk)
