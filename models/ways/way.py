"""Ways: what lies between drawn weights and the network, such as gates on its units or a mask on its weights.

The extension point ``Way``. A model keeps its ways in one list, `BayesianNetwork.ways`, and puts weights through it
wherever it makes any: in the Pyro model, in `weights_at`, and in every step of a fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from bayesprune.models.language.knobs import MovingNumber

__all__ = ["Way", "WaySites", "Ways"]


@dataclass(frozen=True)
class WaySites:
    """Ones and zeros that a way draws at one site.

    Attributes:
        site: Name of the Pyro site, of values `(count,)`.
        numbers: What each of them is the one of, such as the number of its unit, int64, `(count,)`.
    """

    site: str
    numbers: Tensor

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.numbers)


class Way(nn.Module):
    """Base of what lies between drawn weights and the network: override what you need, as it is it changes nothing.

    Tensors that it needs in a step are its buffers (`BufferDict` has names with dots): so they move and are copied with
    the model and are inputs of a traced objective, which follows what is changed in place. What has to be kept with a
    fit is persistent; tables that are made again of a declaration are not.

    Attributes:
        name: Its name, once in a model: of its part of the KL term, of its guide, and of what is kept of it.
        closes_units: Whether it opens and closes units of the network, rather than single weights.
        states_price: Whether its part of the KL term is a price that is stated by itself, so that the KL weight is 1
            and fades in only with what waits by itself.
        follows_removal: Whether it goes on without units that are removed from the network, by `on`.
        acts_inside: Whether the steps of a fit run the network under `inside`, in place of with `weights`.
        sets: What it draws, by site; what else it draws (such as hyper-priors) is its own affair.
    """

    name: ClassVar[str] = ""
    closes_units: ClassVar[bool] = False
    states_price: ClassVar[bool] = False
    follows_removal: ClassVar[bool] = False
    acts_inside: bool = False
    sets: Mapping[str, WaySites]

    def __init__(self) -> None:
        super().__init__()
        self.sets = {}

    @property
    def config(self) -> Mapping[str, Any] | None:
        """What was declared, as JSON holds it: a fit is loaded into a model of the same; default None."""
        return None

    @property
    def knobs(self) -> Mapping[str, MovingNumber]:
        """Its numbers that a rule may move, by name (``model.knobs["gates.price"]`` has its own); default none."""
        return {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """Numbers of its declaration that can be turned, by name; default none."""
        return {}

    @property
    def defaults(self) -> Mapping[str, float | None]:
        """What stands for numbers that were not given, by name; default none."""
        return {}

    def sample(self, like: Tensor) -> dict[str, Tensor]:
        """Draws what it draws, as Pyro statements, after the priors' sites; returns the values of `sets` by site.

        Args:
            like: A tensor of the network, for dtype and device.
        """
        return {}

    def weights(
        self, weights: Mapping[str, Tensor], values: Mapping[str, Tensor], network: nn.Module
    ) -> dict[str, Tensor]:
        """The weights that the network runs with, by operations without a look at values; differentiable.

        Args:
            weights: Weights by name of tensor, after the ways before; what is not among them is the network's own.
            values: Values by site. Without those of its own it is open.
            network: The network; it is left as it was.

        Returns:
            The given weights, and all others that it changes, by name.
        """
        return dict(weights)

    def closed(
        self, weights: Mapping[str, Tensor], values: Mapping[str, Tensor], network: nn.Module
    ) -> dict[str, Tensor]:
        """As `weights`, with zeros also where nothing reads what a weight makes: the outputs are the same.

        It is what `BayesianNetwork.weights_at` and the Pyro model take; default: `weights`.
        """
        return self.weights(weights, values, network)

    def inside(self, network: nn.Module, values: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Lets the network run as with `weights`, with values that may differ between examples, `(batch, count)`.

        Args:
            network: The network.
            values: Values by site. Without those of its own it is open.
        """
        return nullcontext()

    def open(self, values: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """Which weights it leaves in, for inclusion and counting.

        Args:
            values: Values by site, or their probabilities.
            network: The network.

        Returns:
            Ones and zeros, or probabilities, by name of tensor, `(out, in, ...)`; tensors not among them are left in.
        """
        return {}

    def on(self, network: nn.Module, example_input: Tensor) -> Way:
        """The same way of the network without units that were removed from it.

        Args:
            network: The network without them.
            example_input: An input to trace it with.

        Raises:
            ValueError: If it cannot follow the removal, which is the default.
        """
        raise ValueError(
            f"{type(self).__name__} does not say what is left of it when units are removed: fit with "
            "rules=[Gating(remove=None)], or define its method on"
        )


class Ways(nn.ModuleList):
    """A list of ways, which knows that it is one."""

    def __iter__(self) -> Iterator[Way]:
        return cast(Iterator[Way], super().__iter__())
