"""Whether a torch.fx graph does what the network itself does: the same operations on the same numbers.

torch.fx runs a forward on proxies. Code that asks what it is given (`isinstance`, `type`, `torch.is_tensor`), that
catches the error of a proxy or asks whether gradients are recorded may go another way with a proxy than with a tensor,
and the graph is then that of another network. Both are run on the example, and every operation that depends on the
input is noted: its name, its numbers, and which earlier results it reads.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary

from bayesprune.models.graphs.example_run import tensors_of

__all__ = ["refuse_another_graph"]

_ALIASES = ("detach", "alias", "lift_fresh")
"""Operations that only give a tensor another name."""


class _Record(TorchDispatchMode):
    """Notes operations that depend on the inputs, and tensors of the network that are written to.

    Attributes:
        lines: One entry an operation.
        written: Names of parameters and buffers that an operation changed in place.
    """

    def __init__(self, inputs: Sequence[Any], state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.lines: list[Any] = []
        self.written: set[str] = set()
        self._numbers = WeakTensorKeyDictionary()  # of results that depend on the inputs
        self._places = WeakTensorKeyDictionary()  # where their numbers were when an operation last gave them
        self._count = 0
        self._owners = {tensor.untyped_storage().data_ptr(): name for name, tensor in state.items() if tensor.numel()}
        for tensor in tensors_of(inputs):
            self._number(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation."""
        kwargs = kwargs or {}
        written = _written(func, args, kwargs)
        for tensor in written:
            owner = self._owners.get(tensor.untyped_storage().data_ptr()) if tensor.layout is torch.strided else None
            if owner is not None:
                self.written.add(owner)
        leaves = tree_flatten((args, kwargs))[0]
        numbered = [leaf for leaf in leaves if torch.is_tensor(leaf) and leaf in self._numbers]
        line = None
        if numbered:
            line = (str(func), *(self._described(leaf, written) for leaf in leaves))
        found = func(*args, **kwargs)
        if numbered and _is_alias(func, numbered[0], found):
            self._numbers[found] = self._numbers[numbered[0]]
            self._places[found] = _place(found)
        elif numbered:
            self.lines.append(line)
            for tensor in tensors_of(found):
                self._number(tensor)
        return found

    def finish(self, found: Any, state: Mapping[str, Tensor]) -> None:
        """Notes what the network gives, and tensors that have others in their place."""
        for place, name in self._owners.items():
            if name in state and state[name].untyped_storage().data_ptr() != place:
                self.written.add(name)
        self.lines.append(("outputs", *(self._described(leaf, []) for leaf in tree_flatten(found)[0])))

    def _number(self, tensor: Tensor) -> None:
        if tensor not in self._numbers:
            self._numbers[tensor] = self._count
            self._count += 1
        self._places[tensor] = _place(tensor)

    def _described(self, leaf: Any, written: Sequence[Tensor]) -> Any:
        if not torch.is_tensor(leaf):
            plain = isinstance(leaf, (int, float, complex, str, bool, torch.dtype, torch.memory_format))
            return repr(leaf) if plain else type(leaf).__name__
        if leaf in self._numbers:
            moved = self._places[leaf] != _place(leaf)  # by no operation: its .data was set
            return ("result", self._numbers[leaf], tuple(leaf.shape), moved)
        if any(leaf is other for other in written):  # what stands there before may be anything
            return ("written", tuple(leaf.shape))
        owner = self._owners.get(leaf.untyped_storage().data_ptr()) if leaf.layout is torch.strided else None
        view = None if owner is None else (owner, leaf.storage_offset(), leaf.stride())
        return ("constant", tuple(leaf.shape), leaf.is_floating_point(), _Constant(leaf, view))


def _place(tensor: Tensor) -> Any:
    """Where in memory a tensor has its numbers."""
    if tensor.layout is not torch.strided or not tensor.numel():
        return None
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.stride()


class _Constant:
    """A tensor that does not depend on the inputs; compared up to rounding, as it may be computed in another layout.

    Args:
        tensor: The tensor.
        view: Which part it is of which parameter or buffer; it is then still there when it is compared. Else None.
    """

    def __init__(self, tensor: Tensor, view: Any) -> None:
        self.view = view
        plain = (tensor.to_dense() if tensor.layout is not torch.strided else tensor).detach()
        self._real = torch.view_as_real(plain) if plain.is_complex() else plain
        self._sums: list[float] = []
        self.digit = torch.finfo(self._real.dtype).eps if self._real.is_floating_point() else 0.0
        if view is None:
            self._sums, self._real = self.sums(), self._real.new_zeros(0)

    def sums(self) -> list[float]:
        """What it adds up to, as it is and with weights that tell its entries apart."""
        if self._sums:
            return self._sums
        real = self._real.double()
        weights = torch.linspace(1.0, 2.0, real.numel(), dtype=torch.float64, device=real.device)
        return [float(real.abs().sum()), float(real.sum()), float(real.flatten() @ weights)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Constant):
            return False
        if self.view is not None and self.view == other.view:
            return True
        ones, twos = self.sums(), other.sums()
        allowed = max(1e-6, 2 * self.digit, 2 * other.digit) * max(ones[0], 1e-300)
        return all(
            a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= allowed
            for a, b in zip(ones, twos, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]


def _is_alias(func: Any, tensor: Tensor, found: Any) -> bool:
    """Whether an operation only gives a tensor another name, or another number format for numbers with a fraction.

    Autocasting, of which a graph knows nothing, is such a change; what it rounds is left to the comparison of outputs.
    """
    name = func.overloadpacket.__name__
    cast = name == "_to_copy" and tensor.is_floating_point() and found.is_floating_point()
    return cast or name in _ALIASES


def refuse_another_graph(networks: Mapping[bool, nn.Module], graph: nn.Module, inputs: Sequence[Any]) -> set[str]:
    """Compares a network with its graph on an example, with gradients recorded and without.

    What cannot be run in this way, such as a forward that works without gradients only, is not compared.

    Args:
        networks: Copies of the network that have not run, for a run with gradients (true) and one without.
        graph: The graph of such a network.
        inputs: The example.

    Returns:
        Names of parameters and buffers that the forward changes.

    Raises:
        ValueError: If the operations are not the same.
    """
    differences, written = [], set[str]()
    for grad, network in networks.items():
        names = set(_state(network))
        one, other = (_recorded(each, names, inputs, grad) for each in (network, graph))
        if one is not None and other is not None:
            written |= one.written
            differences.append(_difference(one.lines, other.lines))
    found = [words for words in differences if words]
    if not found:
        return written
    if len(found) < len(differences):
        raise ValueError(
            "the network's forward does something else with gradients than without (torch.is_grad_enabled), so that no "
            f"one graph stands for it ({found[0]}): take that branch out"
        )
    raise ValueError(
        "the network's forward does something else with tensors than with what torch.fx puts in their place, so that "
        f"its units cannot be followed ({found[0]}): take out what asks for types (isinstance, type, hasattr)"
    )


def _recorded(network: nn.Module, names: set[str], inputs: Sequence[Any], grad: bool) -> _Record | None:
    state = {name: tensor for name, tensor in _state(network).items() if name in names}
    inputs = [part.detach().clone() if torch.is_tensor(part) else part for part in inputs]
    record = _Record(inputs, state)
    try:
        with (
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
            torch.set_grad_enabled(grad),
            contextlib.redirect_stderr(io.StringIO()),  # a GraphModule prints where it fails
        ):
            warnings.simplefilter("ignore")  # those of a forward are given where it runs for its result
            torch.manual_seed(0)
            with record:
                found = network(*inputs)
    except Exception:  # the trace has worked; whatever does not work here cannot be compared here
        return None
    record.finish(found, _state(network))
    return record


def _state(network: nn.Module) -> dict[str, Tensor]:
    found = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: tensor for name, tensor in found.items() if tensor.layout is torch.strided}


def _difference(ones: Sequence[Any], others: Sequence[Any]) -> str:
    """The first operation that is not the same, in words, or nothing."""
    for one, other in zip_longest(ones, others, fillvalue=("nothing more",)):
        if one != other:
            if one[0] == other[0]:
                return f"{one[0]} of something else"
            return f"{one[0]} where its graph has {other[0]}"
    return ""


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Tensors that an operation changes in place."""
    found: list[Any] = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[place] if place < len(args) else kwargs.get(argument.name))
    return tensors_of(found)
