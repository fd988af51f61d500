"""What a network's outputs mean: the distribution of one observation given the outputs for it.

Likelihoods are modules, because one of them may own a parameter (`Normal()` learns its scale). All log
probabilities are in nats, one number per example; scaling to all the data is the model's business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from bayesprune.models.likelihoods.names import likelihood_class

__all__ = ["Likelihood"]


class Likelihood(nn.Module, ABC):
    """Base of the likelihoods: what `BayesianNetwork` and `fit` ask of one.

    Five methods have to be written; the others say by default that there is nothing to do. See docs/extending.md.

    Attributes:
        name: Name in summaries and in saved fits.
        is_ordered: Whether observations are numbers, of which there are intervals; default False: labels.
        is_labels: Whether observations are labels, whose entropy is all that can be gained; default False.
    """

    name: ClassVar[str]
    is_ordered: ClassVar[bool] = False
    is_labels: ClassVar[bool] = False

    @abstractmethod
    def distribution(self, outputs: Tensor) -> Any:
        """Pyro distribution of the observations, with `batch_shape` `(N,)`.

        Args:
            outputs: Outputs of the network, `(N, ...)`.
        """

    @abstractmethod
    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Log probability of each observation, `(N,)`, in nats: `distribution(outputs).log_prob(y)`, faster.

        Args:
            outputs: Outputs of the network, `(N, ...)`.
            y: Observations in the form that `check` accepts.
        """

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """Mean of the observation given the outputs: probabilities `(N, classes)` for labels, else like `y`.

        Means of several draws may be averaged; outputs may not.

        Args:
            outputs: Outputs of the network, `(N, ...)`.
        """

    @abstractmethod
    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Refuses outputs and observations that do not fit each other, before training starts.

        Args:
            outputs: Outputs of the network, `(N, ...)`.
            y: Observations.

        Raises:
            ValueError: In one sentence.
        """

    @abstractmethod
    def scores(self, mean_prediction: Tensor, y: Tensor) -> dict[str, float]:
        """How good predictions are, by name of the score.

        Args:
            mean_prediction: What `predict` returns, possibly averaged over draws.
            y: Observations in the form that `check` accepts.
        """

    @classmethod
    def outputs_for(cls, targets: int) -> int:
        """How many outputs of a network so many numbers to predict take: as many."""
        return targets

    @property
    def scored(self) -> Likelihood:
        """The likelihood by whose log probabilities predictions are scored: itself, where nothing else is said."""
        return self

    @property
    def learns_noise(self) -> bool:
        """Whether targets are real numbers with noise of an unknown scale, so that `fit` standardises by default."""
        return False

    def in_units(self, shift: Tensor, unit: Tensor) -> tuple[Tensor, Tensor] | None:
        """How outputs for standardised targets are put back into the targets' own units: shift + factor * outputs.

        Args:
            shift: Means of the targets, `()` or `(d,)`.
            unit: Their standard deviations, of that shape.

        Returns:
            Shift and factor, which broadcast to outputs `(N, ...)`; None where targets have no units, as labels have.
        """
        return None

    def begin_noise(self, sd: float) -> None:
        """Starts a learned scale of the noise at a standard deviation, IN PLACE, if it was not started by the user."""

    def noise_in(self, unit: Tensor | None) -> None:
        """Has a learned noise count in units of its own for each target, IN PLACE; default: it has none.

        Args:
            unit: Sizes of the d targets over their root mean square, `(d,)`; None: all the same.
        """

    def config(self) -> dict[str, Any]:
        """What it takes to make this likelihood again, as JSON; learned values are in the state dict."""
        return {"name": self.name}

    def learned_config(self) -> dict[str, Any]:
        """As `config`, with what was learned as fixed arguments."""
        return self.config()

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Likelihood:
        """Makes a likelihood from what `config` returned.

        Args:
            config: The name and the arguments.

        Raises:
            ValueError: If the name or an argument is unknown.
        """
        if not isinstance(config, Mapping):
            raise ValueError(f"a likelihood is stored by its name and arguments, not as a {type(config).__name__}")
        arguments = dict(config)
        name = arguments.pop("name", None)
        kind = likelihood_class(name)
        try:
            made: Likelihood = kind(**arguments)
        except (TypeError, OverflowError):
            raise ValueError(
                f"the likelihood {name!r} does not take the arguments {sorted(arguments)}: "
                "use what its config() returned"
            ) from None
        return made

    def extra_repr(self) -> str:
        """The arguments, for printing."""
        return ", ".join(f"{key}={value}" for key, value in self.config().items() if key != "name")
