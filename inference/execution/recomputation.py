"""Networks that run layers again in the backward pass, where drawn weights are no longer in place.

`torch.utils.checkpoint` saves memory by this. The network runs with drawn weights inside `torch.func.functional_call`
alone, and its layers draw outputs inside the objective alone, so that what is run again later reads the network's own
parameters: gradients would be wrong, and nothing would say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["without_recomputation"]


@contextmanager
def without_recomputation(network: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Inside, where a backward pass belongs, nothing may read the network's own parameter in place of a drawn one.

    Layers whose weights have no prior are their own, and may be run again.

    Args:
        network: The network.
        names: Names of its parameter tensors that something else stood for when it ran.

    Raises:
        ValueError: Inside, if something reads one of them.
    """
    named = {id(network.get_parameter(name)): name for name in names}
    replaced: list[tuple[nn.Module, str, Any]] = []
    for module in network.modules():
        for own, parameter in module._parameters.items():
            # A tensor of another kind, such as one that only has a shape, cannot be made one of this.
            if parameter is not None and id(parameter) in named and type(parameter.detach()) is Tensor:
                replaced.append((module, own, parameter))
    try:
        for module, own, parameter in replaced:
            module._parameters[own] = _NotInPlace.of(parameter, named[id(parameter)])  # type: ignore[assignment]
        yield
    finally:
        for module, own, parameter in replaced:
            module._parameters[own] = parameter


class _NotInPlace(Tensor):
    """A parameter that says so when it is read."""

    of_parameter: str

    @classmethod
    def of(cls, parameter: Tensor, name: str) -> _NotInPlace:
        """Stands for a parameter of that name."""
        found = parameter.detach().as_subclass(cls)
        found.of_parameter = name
        return found

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuses whatever function it is."""
        every = [one for one in (*args, *(kwargs or {}).values()) if isinstance(one, cls)]
        name = every[0].of_parameter if every else "a weight"
        raise ValueError(
            f"the network runs layers again in its backward pass (torch.utils.checkpoint), where {name} is no longer "
            "what was drawn for it: leave out checkpointing of layers whose weights have a prior"
        )
