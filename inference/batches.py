"""Batches of training data: tensors held in memory are permuted and cut; loaders are passed on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from bayesprune.models.bayesian_network import BayesianNetwork

Data = tuple[Tensor, Tensor] | Dataset[Any] | Iterable[Any]


class Batches:
    """One pass over the data an iteration, in an order that the random state of torch decides.

    Args:
        data: `(x, y)` tensors, a `Dataset` or a `DataLoader` (any iterable of `(x, y)` batches).
        batch_size: Size of a batch; the last one of a pass may be smaller. Ignored for a loader.
        device: Where the batches go; tensors in memory are moved there once.
        dtype: dtype of floating-point inputs and targets.
        workers: Processes that load a `Dataset` in the background; default 0: none. Needs a data set that can be
            pickled; a loader has its own.
        channels_last: Whether inputs `(batch, channels, height, width)` are laid out channels last; default False.

    Attributes:
        tensors: `(x, y)` for data in memory, else None.

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
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if workers < 0:
            raise ValueError(f"workers is the number of loading processes, at least 0, not {workers}")
        self.batch_size, self.device, self.dtype, self.channels_last = batch_size, device, dtype, channels_last
        if isinstance(data, TensorDataset) and len(data.tensors) == 2:
            data = (data.tensors[0], data.tensors[1])
        self.tensors: tuple[Tensor, Tensor] | None = None
        self.loader: Any = None
        if isinstance(data, (tuple, list)) and len(data) == 2 and all(torch.is_tensor(part) for part in data):
            x, y = data
            if len(x) != len(y) or len(x) == 0:
                raise ValueError(
                    f"the data have {len(x)} inputs and {len(y)} targets: they must be as many, and not none"
                )
            self.tensors = (self._place(x), self._place(y))
        elif isinstance(data, Dataset):
            self.loader = DataLoader(
                data,
                batch_size,
                shuffle=True,
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

    def __len__(self) -> int:
        """Number of batches in a pass."""
        if self.tensors is not None:
            return -(-len(self.tensors[0]) // self.batch_size)
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields `(x, y)` batches of one pass."""
        if self.tensors is not None:
            x, y = self.tensors
            for rows in torch.randperm(len(x)).to(self.device).split(self.batch_size):
                yield x[rows], y[rows]
            return
        for batch in self.loader:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise ValueError("the loader must yield pairs (x, y) of inputs and targets")
            yield self._place(batch[0]), self._place(batch[1])

    def sizes(self) -> tuple[int, ...]:
        """Numbers of examples that a pass may be said to have; empty where a loader does not tell."""
        if self.tensors is not None:
            return (len(self.tensors[0]),)
        if not isinstance(self.loader, DataLoader):
            return ()
        told = (self.loader.dataset, self.loader.sampler)  # a sampler may leave examples out, or repeat them
        return tuple(len(part) for part in told if isinstance(part, Sized))

    def first(self) -> tuple[Tensor, Tensor]:
        """The first batch, without touching the random state for data in memory."""
        if self.tensors is not None:
            return self.tensors[0][: self.batch_size], self.tensors[1][: self.batch_size]
        with torch.random.fork_rng(devices=[]):
            return next(iter(self))

    def _place(self, part: Any) -> Tensor:
        part = torch.as_tensor(part)
        dtype = self.dtype if part.is_floating_point() else part.dtype
        part = part.to(self.device, dtype, non_blocking=part.is_pinned() if self.device.type == "cuda" else False)
        return part.contiguous(memory_format=torch.channels_last) if self.channels_last and part.ndim == 4 else part


def check_data(model: BayesianNetwork, batches: Batches) -> None:
    """Refuses, before training starts, data that the model cannot take.

    Raises:
        ValueError: For inputs that are not finite, that the network does not take, or targets that do not fit.
    """
    x, y = batches.tensors if batches.tensors is not None else batches.first()
    check_examples(model, x, y)
    sizes = batches.sizes()
    if sizes and model.data_size not in sizes:
        raise ValueError(
            f"the model was made for data_size={model.data_size}, but the data have {sizes[0]} examples: "
            "make it with the number of training examples"
        )


def check_examples(model: BayesianNetwork, x: Tensor, y: Tensor) -> None:
    """Refuses inputs and targets that the model cannot take.

    Args:
        model: The model.
        x: Inputs, `(n, ...)`.
        y: Targets.

    Raises:
        ValueError: In one sentence.
    """
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"there are {len(x)} inputs and {len(y)} targets: they must be as many, and not none")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        bad = ~torch.isfinite(x).reshape(len(x), -1).all(dim=1)
        raise ValueError(
            f"the inputs hold NaN or infinity in {int(bad.sum())} examples, first in example {int(bad.nonzero()[0])}: "
            "remove or fill them"
        )
    model.network.eval()
    try:
        with torch.no_grad():
            outputs = model.network(x[: min(2, len(x))])
    except (RuntimeError, ValueError, IndexError) as problem:
        reason = str(problem).splitlines()[0]
        raise ValueError(f"the network does not take inputs of shape {tuple(x.shape[1:])} ({reason})") from problem
    model.likelihood.check(outputs[:1].expand(len(y), *outputs.shape[1:]), y)
