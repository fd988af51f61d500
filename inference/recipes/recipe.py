"""What a recipe of sparse training comes to: its rules, its network, and a model that fits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.recipes.training_options import TrainingOptions
from bayesprune.inference.rules.rule import Rule
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.costs.weight_names import weight_names
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.changed_networks import changed_network
from bayesprune.models.priors.gaussian import Gaussian

__all__ = ["WEIGHT_DECAY", "Recipe"]

WEIGHT_DECAY = 1e-4
"""Of the networks of the papers, per datum."""


@dataclass(frozen=True)
class Recipe:
    """A method of sparse training with all its settings, made by `recipe`.

        made = bp.recipe("rigl", density=0.01)
        model = made.model(bp.lenet_300_100(), data_size=len(x))
        fit = bp.fit(model, (x, y), rules=made.rules, epochs=20)
        result = bp.prune(fit)

    Attributes:
        name: Its name in `RECIPES`.
        masks: The rule of its masks.
        clip: Largest norm of the gradient of the loss divided by `data_size` that it trains with; default None: no
            limit.
        shared_blocks: Blocks of each residual stage that own their convolutions, which later ones use (`share_blocks`);
            None: the network is left as it is.
        dyrelu: Whether its activations are `DyReLU`s while it is trained, which are faded into ReLUs (`with_dyrelu`).
    """

    name: str
    masks: DynamicMasks
    clip: float | None = None
    shared_blocks: int | None = None
    dyrelu: bool = False

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What `fit(rules=)` takes."""
        return (self.masks,) if self.clip is None else (TrainingOptions(clip=self.clip), self.masks)

    def network(self, network: nn.Module, example_input: Tensor | None = None) -> nn.Module:
        """A network as the recipe trains it: with shared blocks and DyReLUs where it has them, else the network itself.

        Args:
            network: The network; its weights are copied.
            example_input: An input, `(n, ...)`, of a network that is none of this package's; default None.

        Raises:
            ValueError: As `share_blocks` and `with_dyrelu`: for a network without residual stages of so many blocks, or
                without an `nn.ReLU`.
        """
        return changed_network(network, self.shared_blocks, self.dyrelu, example_input)

    def model(
        self,
        network: nn.Module,
        data_size: int,
        likelihood: Likelihood | None = None,
        prior: Hierarchy | Mapping[str, Hierarchy] | None = None,
        example_input: Tensor | None = None,
    ) -> BayesianNetwork:
        """A Bayesian network for `fit` with these rules; the network is copied, and changed as `network` says.

        Args:
            network: The network.
            data_size: Number of training data.
            likelihood: What outputs mean; default None: `Categorical`.
            prior: A prior on all weights (`weight_names`), or priors by pattern as `BayesianNetwork` takes them;
                default None: ``Gaussian.from_weight_decay(1e-4, data_size)``, fitted by MAP: SGD with weight decay.
            example_input: As for `network`.

        Raises:
            ValueError: As `BayesianNetwork` and `network`.
        """
        network = self.network(network, example_input)
        prior = Gaussian.from_weight_decay(WEIGHT_DECAY, data_size=data_size) if prior is None else prior
        priors = dict(prior) if isinstance(prior, Mapping) else dict.fromkeys(weight_names(network), prior)
        return BayesianNetwork(network, priors, likelihood, data_size=data_size)
