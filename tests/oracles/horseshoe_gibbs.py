"""A Gibbs sampler of the horseshoe regression (Makalic and Schmidt 2016), in numpy, written from the definitions alone.

y = x b + noise, b_j ~ Normal(0, tau^2 lam_j^2), lam_j ~ HalfCauchy(1), tau ~ HalfCauchy(tau0), sd of the noise ~
HalfCauchy(1). A half-Cauchy is an inverse gamma whose scale is inverse gamma. Without a slab: a regularised horseshoe
is this one where weights are far below the scale of its slab.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def horseshoe_gibbs(
    x: Array, y: Array, tau0: float, draws: int, warmup: int = 1000, seed: int = 0, noise: float | None = None
) -> tuple[Array, Array, Array]:
    """Draws of weights `(draws, features)`, of their prior scales, and of the sd of the noise unless it is given."""
    rng = np.random.default_rng(seed)
    n, p = x.shape
    lam2, nu, tau2, xi, noise2, eta = np.ones(p), np.ones(p), tau0**2, 1.0, (noise or 1.0) ** 2, 1.0
    gram, moment = x.T @ x, x.T @ y
    weights, scales, noises = np.empty((draws, p)), np.empty((draws, p)), np.empty(draws)

    def inverse_gamma(shape, scale):
        return scale / rng.gamma(shape, size=np.shape(scale) or None)

    for step in range(warmup + draws):
        root = np.linalg.cholesky(gram / noise2 + np.diag(1.0 / (tau2 * lam2)))
        mean = np.linalg.solve(root.T, np.linalg.solve(root, moment / noise2))
        b = mean + np.linalg.solve(root.T, rng.standard_normal(p))
        lam2 = inverse_gamma(1.0, 1.0 / nu + b**2 / (2.0 * tau2))
        nu = inverse_gamma(1.0, 1.0 + 1.0 / lam2)
        tau2 = inverse_gamma((p + 1.0) / 2.0, 1.0 / xi + (b**2 / lam2).sum() / 2.0)
        xi = inverse_gamma(1.0, 1.0 / tau0**2 + 1.0 / tau2)
        if noise is None:
            noise2 = inverse_gamma((n + 1.0) / 2.0, 1.0 / eta + ((y - x @ b) ** 2).sum() / 2.0)
            eta = inverse_gamma(1.0, 1.0 + 1.0 / noise2)
        if step >= warmup:
            at = step - warmup
            weights[at], scales[at], noises[at] = b, np.sqrt(tau2 * lam2), noise2**0.5
    return weights, scales, noises
