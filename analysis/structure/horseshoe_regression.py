"""Linear regression with a regularised horseshoe, for features that say much the same as each other."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import BayesianRidge
from torch import Tensor, nn
from torch.func import functional_call

from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.objective.objective import objective
from bayesprune.inference.training.optimizers import make_optimizer
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.horseshoe import RegularisedHorseshoe

__all__ = ["METHODS", "HorseshoeRegression"]

Array = npt.NDArray[np.float64]

METHODS = ("svi", "nuts")
_WEIGHT = "0.weight"
_TARGET_ACCEPTANCE, _DEEPEST = 0.9, 6
_LEARNING_RATE = 0.1


class HorseshoeRegression(RegressorMixin, BaseEstimator):
    """y = x w + noise with a regularised horseshoe on w, in standard units of x and y; a regressor of scikit-learn.

    tau0 is the choice of Piironen and Vehtari 2017 (eq. 3.12), share / (1 - share) / sqrt(rows), with the sd of y for
    that of the noise; the slab's scale is 1, the sd of y.

    A feature counts as included in a draw if its shrinkage factor 1 / (1 + rows s^2 / noise^2), s its prior scale in
    that draw, is below a half: if the data pull more at it than the prior. Of two features that say the same either
    may carry what they say, so that each alone is included in part of the draws only: ask `included_any` for the
    probability that at least one of them is. By ``"svi"`` the guide holds weights for independent, and settles
    on one way in which such features share, another one for another seed; predictions hardly depend on that.

    Args:
        share: Expected share of features that are not shrunk, in (0, 1); default 0.2.
        method: ``"svi"`` (default; the mean-field guide, seconds) or ``"nuts"`` (Pyro's sampler on the
            same declaration, minutes for 20 features, noise sampled too under a half-Cauchy).
        steps: Of svi; default 800.
        warmup: Of nuts; default 300.
        draws: Draws of the posterior that are kept; default 500.
        seed: Of random numbers; default 0.

    Attributes:
        coefficients_: Draws of w, in standard units, `(draws, features)`.
        noise_: Draws of the sd of the noise, in standard units, `(draws,)`; by svi all alike.
        inclusion_: Posterior probability that each feature is included, `(features,)`.
        included_: The same by draw, boolean, `(draws, features)`.
        divergences_: Divergent transitions of nuts; 0 by svi.
    """

    def __init__(
        self,
        share: float = 0.2,
        method: str = "svi",
        steps: int = 800,
        warmup: int = 300,
        draws: int = 500,
        seed: int = 0,
    ) -> None:
        self.share, self.method, self.steps = share, method, steps
        self.warmup, self.draws, self.seed = warmup, draws, seed

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - scikit-learn's name
        """Fits the regression.

        Args:
            X: Features, `(n, features)`, finite.
            y: What is to be predicted, `(n,)`, finite, not all equal.

        Raises:
            ValueError: In one sentence, if these are not that, or an option is none.
        """
        x, scores = self._checked(X, y)
        self.n_features_in_ = x.shape[1]
        self._centre, self._scale = x.mean(0), np.where(np.ptp(x, 0) == 0.0, 1.0, x.std(0))
        self._y_centre, self._y_scale = float(scores.mean()), float(scores.std())
        inputs = torch.from_numpy((x - self._centre) / self._scale)
        targets = torch.from_numpy((scores - self._y_centre) / self._y_scale)
        with torch.random.fork_rng(devices=[]):
            sites, noise = (self._by_nuts if self.method == "nuts" else self._by_svi)(inputs, targets)
        tau, c2 = sites[f"{_WEIGHT}.tau"].reshape(-1, 1), sites[f"{_WEIGHT}.c2"].reshape(-1, 1)
        wide = (tau * sites[f"{_WEIGHT}.lam"].reshape(len(tau), -1)).square()
        variance = wide * c2 / (c2 + wide)
        self.coefficients_ = (variance.sqrt() * sites[f"{_WEIGHT}.z"].reshape(len(tau), -1)).numpy()
        self.noise_ = noise.numpy()
        informed = len(x) * np.array((inputs.square().mean(0) > 0.0).numpy(), dtype=np.float64)
        self.included_ = informed * variance.numpy() / self.noise_[:, None] ** 2 > 1.0
        self.inclusion_ = self.included_.mean(0)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:  # noqa: N803 - scikit-learn's name
        """The posterior mean of y, and the predictive sd, noise included.

        Args:
            X: Features, `(n, features)`.
            return_std: Whether the sd is returned too; default False.

        Returns:
            Means `(n,)`; or means and sds.
        """
        x = (np.asarray(X, dtype=np.float64) - self._centre) / self._scale
        drawn = x @ self.coefficients_.T
        mean = self._y_centre + self._y_scale * drawn.mean(1)
        if not return_std:
            return mean
        return mean, self._y_scale * np.sqrt(drawn.var(1) + (self.noise_**2).mean())

    def included_any(self, features: Sequence[int]) -> float:
        """The posterior probability that at least one of some features is included.

        Args:
            features: Their columns.
        """
        return float(self.included_[:, list(features)].any(1).mean())

    def _by_svi(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        torch.manual_seed(self.seed)
        loss = objective(self._model(x, y), "meanfield")
        optimizer = make_optimizer("adam", loss, _LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        stepper = Stepper(loss, optimizer, self.steps, execution="fused", compiled=False)
        for _ in range(self.steps):
            stepper.step(x, y, kl_weight=1.0)
            schedule.step()
        stepper.finish()
        drawn = [loss.guide.sample() for _ in range(self.draws)]
        sites = {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}
        scale = torch.as_tensor(loss.model.likelihood.scale).detach().double()
        self.divergences_ = 0
        return sites, scale.expand(self.draws).clone()

    def _by_nuts(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        model = self._model(x, y)

        def declared(inputs: Tensor, targets: Tensor) -> None:
            noise = pyro.sample("noise", dist.HalfCauchy(inputs.new_ones(())))
            means = functional_call(model.network, model.sample_weights(), (inputs,))
            pyro.sample("y", dist.Normal(means, noise).to_event(1), obs=targets)

        pyro.set_rng_seed(self.seed)
        kernel = NUTS(declared, target_accept_prob=_TARGET_ACCEPTANCE, max_tree_depth=_DEEPEST)
        sampler = MCMC(kernel, self.draws, self.warmup, disable_progbar=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            sampler.run(x, y)
        sites = sampler.get_samples()
        self.divergences_ = sum(map(len, sampler.diagnostics()["divergences"].values()))
        return sites, sites.pop("noise")

    def _model(self, x: Tensor, y: Tensor) -> BayesianNetwork:
        """The declaration; it starts at the weights of a ridge, as scales that start at zero have no way out."""
        linear = nn.Linear(x.shape[1], 1, bias=False)
        line = nn.Sequential(linear, nn.Flatten(0)).double()
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(BayesianRidge().fit(x.numpy(), y.numpy()).coef_))
        tau0 = self.share / (1.0 - self.share) / len(x) ** 0.5
        return BayesianNetwork(line, {_WEIGHT: RegularisedHorseshoe(tau0=tau0, slab_sd=1.0)}, Normal(), len(x))

    def _checked(self, features: Any, scores: Any) -> tuple[Array, Array]:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is unknown: one of {', '.join(METHODS)} is expected")
        if not 0.0 < self.share < 1.0:
            raise ValueError(f"share is {self.share}, but a number between 0 and 1 is expected: 0.2 is the default")
        x, y = np.asarray(features, dtype=np.float64), np.asarray(scores, dtype=np.float64)
        if x.ndim != 2 or y.shape != x.shape[:1] or len(x) < 2:
            raise ValueError(
                f"features of shape {x.shape} and scores of shape {y.shape} do not belong together: give (n, features) "
                "and (n,), with two rows or more"
            )
        if not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(y) == 0.0:
            raise ValueError(
                "features and scores have to be finite, and scores not all equal: mend or remove those rows"
            )
        return x, y
