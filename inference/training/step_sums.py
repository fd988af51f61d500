"""Sums of the terms of steps, which stay on their device until somebody has to know them."""

from __future__ import annotations

import math
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
        numbers: Log-likelihood, KL term, and its parts by site, in full-data nats, `(2 + sites,)`: a copy, as a step
            that is replayed as a CUDA graph writes the next one's to the same place.
        sites: The sites of the parts.
    """

    step: int
    kl_weight: float
    numbers: Tensor
    sites: tuple[str, ...]

    def first_bad(self) -> str:
        """The part of the loss that is not finite: the site of a term, or empty for the log-likelihood."""
        parts = self.numbers[2:].tolist()
        return next((site for site, part in zip(self.sites, parts, strict=True) if not math.isfinite(part)), "")


class StepSums:
    """Sums over the steps of an epoch, and of those since the last recorded iterate.

    Reading a number of a GPU waits for it. So steps are added unread, and read together when a record is due; on a CPU,
    where nothing waits, at once.

    Attributes:
        taken: Steps added since `begin_epoch`.
        sums: Sums of them by name: loss, expected_log_likelihood and kl, in full-data nats.
        chunk: Negative ELBO of each step since it was emptied.
    """

    def __init__(self) -> None:
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
        numbers = torch.stack([terms.log_likelihood, terms.kl, *terms.kl_of.values()]).detach()
        self._unread.append(Unread(step, kl_weight, numbers, tuple(terms.kl_of)))
        self.taken += 1

    @property
    def waits(self) -> bool:
        """Whether reading the last step would wait for a device."""
        return bool(self._unread) and self._unread[-1].numbers.device.type != "cpu"

    def read(self) -> Unread | None:
        """Reads what is unread; returns the first step whose loss is not finite, or None.

        The steps before it are summed.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return None
        numbers = torch.stack([one.numbers[:2] for one in unread]).tolist()
        for one, (likelihood, kl) in zip(unread, numbers, strict=True):
            if not math.isfinite(kl - likelihood):
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
