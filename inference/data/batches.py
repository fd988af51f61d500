"""Batches of training data: tensors held in memory are permuted and cut; loaders are passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from bayesprune.inference.data.shared_batches import SharedBatches
from bayesprune.inference.runtime.share import WHOLE, Share

Data = tuple[Tensor, Tensor] | Dataset[Any] | Iterable[Any]

_LARGEST_SIZE = 2**63 - 1
_TARGETS = 2**17
"""Examples of a loader's first pass whose targets are kept, at most, and numbers in them."""
_BEYOND_TORCH = (torch.uint16, torch.uint32, torch.uint64)
"""dtypes that torch stores, but hardly computes with."""


def length_or_none(part: Any) -> int | None:
    """The length of data or of a part of a loader; None where it has none, or does not tell.

    Having `__len__` says little: that of a `ChainDataset` raises for streams, and so does that of a loader of one.

    Args:
        part: Anything.
    """
    try:
        return len(part)
    except (TypeError, NotImplementedError):
        return None


class Batches:
    """One pass over the data an iteration, in an order that a random generator decides.

    Args:
        data: `(x, y)` tensors, a `Dataset` or a `DataLoader` (any sized iterable of `(x, y)` batches). A pass over an
            `IterableDataset` may have no known length, or no end.
        batch_size: Size of a batch; the last one of a pass may be smaller. Ignored for a loader.
        device: Where the batches go; tensors in memory are moved there once.
        dtype: dtype of floating-point inputs and targets.
        workers: Processes that load a `Dataset` in the background; default 0: none. Needs a data set that can be
            pickled; a loader has its own.
        channels_last: Whether inputs `(batch, channels, height, width)` are laid out channels last; default False.
        order: The generator that permutes tensors in memory and a `Dataset`; default None: torch's own. A loader of the
            user's has its own way.

    Attributes:
        order: As given.
        tensors: `(x, y)` for data in memory, else None.
        share: Which rows of each batch this process takes (`share_out`); all, until it is told otherwise.
        weight: Factor on the mean over the latest batch, such that that over all processes is that over the whole one.
        example_outputs: The network's outputs for one example, `(1, ...)`, once `check_data` has looked; else None.

    Raises:
        ValueError: If the data are empty, of unequal length, or not of one of these kinds.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
        workers: int = 0,
        channels_last: bool = False,
        order: torch.Generator | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if batch_size > _LARGEST_SIZE:
            raise ValueError(f"batch_size must be below 2**63, not {batch_size}: the number of examples is enough")
        if workers < 0:
            raise ValueError(f"workers is the number of loading processes, at least 0, not {workers}")
        self.batch_size, self.device, self.dtype, self.channels_last = batch_size, device, dtype, channels_last
        self.order = order
        if isinstance(data, TensorDataset) and len(data.tensors) == 2:
            data = (data.tensors[0], data.tensors[1])
        self.tensors: tuple[Tensor, Tensor] | None = None
        self.loader: Any = None
        self.share, self.weight = WHOLE, 1.0
        self._own: SharedBatches | None = None
        if isinstance(data, (tuple, list)) and len(data) == 2 and all(torch.is_tensor(part) for part in data):
            x, y = data
            if len(x) != len(y) or len(x) == 0:
                raise ValueError(
                    f"the data have {len(x)} inputs and {len(y)} targets: they must be as many, and not none"
                )
            self.tensors = (self.place(x), self.place(y))
        elif isinstance(data, Dataset):
            is_stream = isinstance(data, IterableDataset)
            if not is_stream and not length_or_none(data):
                raise ValueError("the data set is empty, or has no length: give a Dataset with at least one example")
            self.loader = DataLoader(
                data,
                batch_size,
                shuffle=None if is_stream else True,
                generator=order,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=device.type == "cuda",
            )
        elif isinstance(data, Iterable) and isinstance(data, Sized) and not isinstance(data, (tuple, Tensor)):
            self.loader = data
        else:
            raise ValueError(
                f"data must be a tuple (x, y) of tensors, a Dataset or a DataLoader, not {type(data).__name__}"
            )
        if self.length == 0:
            raise ValueError("the loader has no batches: give it examples, at least a batch of them with drop_last")
        self._expected: tuple[int | None, Callable[[Tensor], None]] | None = None
        self._counted = False
        self._first: tuple[Tensor, Tensor] | None = None
        self._targets: list[Tensor] = []
        self._target_numbers, self._has_targets = 0, False
        self.example_outputs: Tensor | None = None

    def share_out(self, share: Share) -> None:
        """Has each batch shared out among processes, which walk the same order; `WHOLE` ends it.

        Of a `Dataset` a process loads its own examples only; of a loader of the user's it loads all, and takes its own.

        Args:
            share: The share of this process.
        """
        self.share = share
        loader = self.loader
        if self._own is not None:
            self._own.share = share
        elif share != WHOLE and isinstance(loader, DataLoader) and not self.is_stream and self._makes_order(loader):
            self._own = SharedBatches(loader.sampler, self.batch_size, share)
            self.loader = DataLoader(
                loader.dataset,
                batch_sampler=self._own,
                generator=self.order,
                num_workers=loader.num_workers,
                persistent_workers=loader.persistent_workers,
                pin_memory=loader.pin_memory,
            )

    def _makes_order(self, loader: DataLoader[Any]) -> bool:
        """Whether a loader is one of ours, around a `Dataset`."""
        return self.order is not None and loader.generator is self.order

    @property
    def length(self) -> int | None:
        """Number of batches in a pass; None for a stream of data that does not tell."""
        if self.tensors is not None:
            return -(-len(self.tensors[0]) // self.batch_size)
        return length_or_none(self.loader)

    def __len__(self) -> int:
        """Number of batches in a pass.

        Raises:
            TypeError: If the data do not tell.
        """
        if self.length is None:
            raise TypeError("the data do not tell how many batches a pass over them has")
        return self.length

    def steps_in(self, epochs: int) -> int:
        """Number of batches in so many passes.

        Raises:
            ValueError: If the data do not tell.
        """
        if self.length is None:
            raise ValueError(
                "the data do not tell how many batches a pass over them has, so that epochs= has no meaning: give "
                "steps=, or data with a length"
            )
        return epochs * self.length

    def passes_in(self, steps: int, data_size: int) -> int:
        """Number of passes that so many steps are, the last one begun; of a stream as many as its size lets expect.

        Args:
            steps: Number of steps.
            data_size: Number of examples.
        """
        size = self.batch_size  # a loader has its own
        if isinstance(self.loader, DataLoader) and self.loader.batch_size is not None:
            size = self.loader.batch_size
        return -(-steps // (self.length or -(-data_size // size)))

    def largest(self) -> int | None:
        """Number of examples of the largest batch, where it is known without reading data."""
        if self.tensors is not None:
            return min(self.batch_size, len(self.tensors[0]))
        if isinstance(self.loader, (list, tuple)):
            return max(len(batch[0]) for batch in self.loader)
        if self._own is not None:
            return min(self.batch_size, len(self._own.sampler))
        if not isinstance(self.loader, DataLoader) or self.loader.batch_size is None:
            return None
        drawn = length_or_none(self.loader.sampler)
        return self.loader.batch_size if drawn is None else min(self.loader.batch_size, drawn)

    def expect(self, data_size: int | None, check: Callable[[Tensor], None]) -> None:
        """Has the batches of a loader looked at as they come, before anything is trained on them.

        Args:
            data_size: How many examples the first whole pass is to have, but for those that a loader leaves out or
                repeats; None: any.
            check: Raises a ValueError for targets that do not fit.
        """
        self._expected = (data_size, check)

    def expect_nothing(self) -> None:
        """Ends what `expect` began: once the last step is done, no batch may lose what was trained."""
        self._expected = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields `(x, y)` batches of one pass.

        Raises:
            ValueError: If a batch is not what `expect` said, or the pass has another number of examples.
        """
        if self.tensors is not None:
            x, y = self.tensors
            for rows in torch.randperm(len(x), generator=self.order).to(self.device).split(self.batch_size):
                self.weight, mine = self.share.weight(len(rows)), rows[self.share.rows(len(rows))]
                yield x[mine], y[mine]
            return
        number, seen, largest, length = 0, 0, 0, None if self._counted else self.length
        batches = iter(self.loader)
        for batch in batches:
            number += 1
            x, y = self._checked(batch, number)
            size = len(x) if self._own is None else self._own.size(number)
            seen, largest = seen + size, max(largest, size)
            if number != length:  # what comes next is not looked at: a loader may draw random numbers for it
                yield self._mine(x, y, size)
                continue
            following = next(batches, None)  # the examples have been counted before the last step of the first pass
            if following is None:
                self._count(seen, largest)
            yield self._mine(x, y, size)
            if following is not None:
                x, y = self._checked(following, number + 1)
                number, seen, largest = number + 1, seen + len(x), max(largest, len(x))
                yield self._mine(x, y, len(x))
        self._count(seen, largest)

    def _mine(self, x: Any, y: Any, size: int) -> tuple[Tensor, Tensor]:
        """What this process takes of a loader's batch of so many examples, where the fit wants it."""
        self.weight = self.share.weight(size)
        if self._own is None and self.share != WHOLE:
            rows = self.share.rows(size)
            x, y = x[rows], y[rows]
        return self.place(x), self.place(y)

    def _checked(self, batch: Any, number: int) -> tuple[Any, Any]:
        """Inputs and targets of a loader's batch."""
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError("the loader must yield pairs (x, y) of inputs and targets")
        try:
            x, y = (_signed(torch.as_tensor(part)) for part in batch)
            if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
                raise ValueError(
                    f"it has inputs of shape {tuple(x.shape)} and targets of shape {tuple(y.shape)}: they must be as "
                    "many, and not none"
                )
            if self._expected is not None:
                self._expected[1](y.to(self.dtype) if y.is_floating_point() else y)
                self._keep_targets(y)
        except (ValueError, TypeError) as problem:
            raise ValueError(f"batch {number} of a pass over the data: {problem}") from problem
        return x, y

    def _keep_targets(self, y: Tensor) -> None:
        """Keeps targets of the first pass as they come by: a loader is not read again to look at them."""
        if self._targets and y.shape[1:] != self._targets[0].shape[1:]:
            return  # of a likelihood of one's own, on sequences of unlike lengths
        if not self._counted and not self._has_targets and self._target_numbers < _TARGETS:
            self._targets.append(y.detach().cpu().clone())  # a loader may use its memory again
            self._target_numbers += y.numel()

    @property
    def targets(self) -> Tensor | None:
        """The training targets: all of data in memory; of a loader those of the first pass, or many of them."""
        if self.tensors is not None:
            return self.tensors[1]
        return torch.cat(self._targets) if self._targets else None

    def targets_state(self) -> dict[str, Any]:
        """The targets of a loader's first pass, which a fit that goes on does not see again, and whether it is over."""
        return {"targets": self.targets, "has_targets": self._counted or self._has_targets}

    def restore_targets(self, state: Mapping[str, Any]) -> None:
        """Puts back what `targets_state` gave, in place of what has come by."""
        found, self._has_targets = state["targets"], state["has_targets"]
        self._targets = [] if found is None else [found]
        self._target_numbers = 0 if found is None else found.numel()

    def _count(self, seen: int, largest: int) -> None:
        """Compares the examples of the first whole pass, and of its largest batch, with what was expected."""
        if self._expected is None or self._counted:
            return
        self._counted = True
        size = self._expected[0]
        if size is not None and not self._may_be(size, seen, largest):
            raise ValueError(
                f"the model was made for data_size={size}, but a pass over the data has {seen} examples: make it with "
                "the number of training examples"
            )

    def _may_be(self, size: int, seen: int, largest: int) -> bool:
        """Whether data of so many examples may give a pass of `seen`: a last batch may be left out, some come twice."""
        loader, after = self.loader, seen + largest
        if size == seen:
            return True
        if not isinstance(loader, DataLoader):  # it may be one around a loader that drops its last batch
            return seen <= size < after
        after = seen + largest * max(1, loader.num_workers)  # of a stream each worker drops one
        if (loader.drop_last or loader.batch_size is None) and seen <= size < after:
            return True
        if loader.batch_sampler is None:  # the data set is one of batches
            return False
        whole = length_or_none(loader.dataset)
        if size == whole and whole < after:
            return True
        drawn = None if loader.batch_size is None else length_or_none(loader.sampler)
        return drawn is not None and seen <= drawn < after and size in (whole, drawn)

    def sizes(self) -> tuple[int, ...]:
        """Numbers of examples that a pass may be said to have; empty where a loader does not tell."""
        if self.tensors is not None:
            return (len(self.tensors[0]),)
        if isinstance(self.loader, (list, tuple)):
            return (sum(len(self._checked(batch, number)[0]) for number, batch in enumerate(self.loader, start=1)),)
        if self._own is not None:
            return (len(self._own.sampler),)
        if not isinstance(self.loader, DataLoader) or self.loader.batch_size is None:
            return ()  # with batch_size=None the data set is one of batches; a batch sampler draws what it likes
        told = (self.loader.dataset, self.loader.sampler)  # a sampler may leave examples out, or repeat them
        return tuple(length for part in told if (length := length_or_none(part)) is not None)

    @property
    def is_stream(self) -> bool:
        """Whether what the data say of their number is only known to be true when a pass has been counted."""
        return isinstance(self.loader, DataLoader) and isinstance(self.loader.dataset, IterableDataset)

    def first(self) -> tuple[Tensor, Tensor]:
        """The first batch, without touching the random state; that of a loader is read anew, and kept for `kept`."""
        if self.tensors is not None:
            return self.tensors[0][: self.batch_size], self.tensors[1][: self.batch_size]
        before = None if self.order is None else self.order.get_state()
        with torch.random.fork_rng(devices=[]):
            for batch in self:
                self._first = batch
                if self.order is not None and before is not None:
                    self.order.set_state(before)
                return batch
        raise ValueError("the data have no batches: give at least one example")

    @property
    def kept(self) -> tuple[Tensor, Tensor] | None:
        """The batch of a loader that `first` read last: there may be no other after a fit, of data read only once."""
        return self._first

    def place(self, part: Any) -> Tensor:
        """Inputs or targets where the fit wants them, as `placed`."""
        return placed(part, self.device, self.dtype, self.channels_last)


def placed(part: Any, device: torch.device, dtype: torch.dtype, channels_last: bool = False) -> Tensor:
    """Inputs or targets where a fit wants them; floating-point numbers in its dtype.

    Args:
        part: The tensor, or what makes one.
        device: Where it goes.
        dtype: dtype of floating-point numbers.
        channels_last: Whether `(batch, channels, height, width)` are laid out channels last; default False.

    Raises:
        ValueError: If finite numbers are too large for the dtype.
    """
    part = _signed(torch.as_tensor(part))
    if part.is_inference():  # a tensor of torch.inference_mode() cannot be used where there are gradients
        part = part.clone()
    if not part.is_floating_point():
        dtype = part.dtype
    elif part.dtype == torch.float64 and dtype != torch.float64:
        too_large = torch.isfinite(part) & (part.abs() > torch.finfo(dtype).max)
        if bool(too_large.any()):
            raise ValueError(
                f"the data hold numbers up to {float(part[too_large].abs().max()):.3g}, too large for "
                f"{str(dtype).removeprefix('torch.')}: rescale them"
            )
    part = part.to(device, dtype, non_blocking=part.is_pinned() if device.type == "cuda" else False)
    return part.contiguous(memory_format=torch.channels_last) if channels_last and part.ndim == 4 else part


def _signed(part: Tensor) -> Tensor:
    """Whole numbers without a sign, of two bytes or more, as int64."""
    return part.long() if part.dtype in _BEYOND_TORCH else part
