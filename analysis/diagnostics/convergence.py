"""Whether a fit has stopped moving: R-hat, effective sample size and Monte Carlo error of its iterates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from bayesprune.analysis.arviz.shim import arviz
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.fitted import SAMPLES
from bayesprune.inference.own_loop import UNRECORDED

Array = np.ndarray

ELBO = "negative_elbo"
R_HAT = 1.05
"""R-hat above this counts as movement, where the windows are long enough for R-hat to be that precise."""
ERRORS = 3.0
"""Monte Carlo errors within which a drift of the ELBO counts as noise."""
FEWEST = 40
"""Iterates after the KL warm-up below which nothing is said."""
RESOLUTION = 0.02
"""Drift of the ELBO between two windows, in nats per example, that would have to be seen in a converged fit."""
SMALL_DRIFT = 0.001
"""Drift of the ELBO, as a share of all it gained since the KL warm-up, that is too small to matter."""
SMALL_GAP = 0.01
"""Gap between the ELBOs of restarts, as the same share, that is too small to matter."""
SMALL_CHANGE = 0.01
"""Relative change of a scale, or of a mean inclusion probability, that is too small to matter."""


@dataclass(frozen=True)
class Convergence:
    """What the iterates say about a fit.

    Attributes:
        table: Over `(window, quantity)`: ``r_hat`` with restarts as chains, ``r_hat_within`` (between the
            halves of the window, the largest over restarts), ``ess`` (effective number of iterates), ``mean``
            and ``mcse`` (Monte Carlo error of the mean); ``change`` between the halves of the window, the largest
            over restarts (of the ELBO as a share of its gain since the KL warm-up, of others relative), ``matters``,
            whether that is more than 0.1 % of the gain or 1 %, and ``moves``, whether moreover ``r_hat_within`` is
            above chance, the attribute ``r_hat_limit``: what moves in the last window fails the fit;
            ``first_step`` and ``last_step`` over `window`.
        verdict: ``"converged"``, ``"not converged"`` or ``"cannot tell"``.
        reason: Why, in one sentence.
        elbo: Mean ELBO (of a MAP: log joint) of the last window over restarts, in full-data nats; NaN where
            there are no windows.
        elbo_error: Its Monte Carlo error in nats.
    """

    table: xr.Dataset
    verdict: str
    reason: str
    elbo: float
    elbo_error: float

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.reason}"]
        if self.table.sizes.get("window", 0):
            kind = self.table.attrs["objective"]
            lines.append(f"final {kind} {self.elbo:,.1f} nats (Monte Carlo error {self.elbo_error:,.1f})")
            names = [str(name) for name in self.table.quantity.values]
            width = max(map(len, names))
            numbers = "".join(f"{f'R-hat {w}':>9}" for w in self.table.window.values)
            lines.append(f"{'':<{width}}{numbers}{'halves':>9}{'ess':>7}{'mean':>12}")
            for name in names:
                row = self.table.sel(quantity=name)
                last = row.isel(window=-1)
                r_hats = "".join(f"{value:9.3f}" for value in (*row.r_hat.values, float(last.r_hat_within)))
                lines.append(f"{name:<{width}}{r_hats}{float(last.ess):7.0f}{float(last['mean']):12.5g}")
            lines.append("R-hat by window, between the halves of the last one; ess and mean of the last window")
        return "\n".join(lines)


def convergence(fit: Fit, windows: int = 4) -> Convergence:
    """Judges from the recorded iterates of the negative ELBO and of the scales whether a fit has converged.

    The iterates after the KL warm-up are cut into windows. In each, R-hat (rank-normalised, Vehtari et al.
    2021) and the effective sample size take the restarts as chains; with one restart the halves of the
    window. In the last window the fit is

    * ``"not converged"`` where in some restart the mean ELBO drifts, that is where it differs from that of
      the window before by more than 3 Monte Carlo errors (of the windows less their trend) and by more than
      0.1 % of what the ELBO gained since the KL warm-up; where R-hat between the halves of the window, for
      the ELBO or a scale, exceeds both 1.05 and what one stationary series in a thousand shows at that
      length, and the change matters (0.1 % of the gain; 1 % of a scale); where restarts differ in the ELBO by
      more than chance and 1 % of the gain; or where a value is not finite;
    * ``"cannot tell"`` where there are fewer than 40 iterates (10 a window), where the ELBO is constant,
      where R-hat of the ELBO exceeds 1.05 but no more than chance allows in windows so short, or where the
      ELBO is so noisy that a drift of 0.02 nats per example would be within 3 Monte Carlo errors (steps,
      particles and larger batches help), or of samples that were collected along a run (`CyclicalSampling`);
    * ``"converged"`` otherwise.

    Iterates of an optimiser at a fixed learning rate behave like a Markov chain (Dhaka et al. 2020), and
    R-hat asks whether that chain is stationary. It cannot tell whether the optimum is the best one, whether
    the guide is near the posterior, nor whether the fit merely slowed down: a learning rate that decays makes
    late iterates look stationary, and the reason says where it had. Draws from the guide are independent by
    construction and never get an R-hat. Weights are not identified across restarts, so none of their entries
    is looked at; scales of layers are compared across restarts in the table, but restarts that end at
    different scales do not fail the fit.

    Args:
        fit: The fit.
        windows: Number of windows, at least 2; default 4.

    Raises:
        ValueError: If `windows` is below 2.
    """
    check_windows(windows)
    if fit.settings.get(SAMPLES):
        reason = "its restarts are networks along a run, whose learning rate goes up and down"
        return Convergence(xr.Dataset(), "cannot tell", f"{reason}.", np.nan, np.nan)
    series = _after_warmup(fit)
    kind = "log joint" if all(one.guide.is_map for one in fit.restarts) else "ELBO"
    verdict, reason = judge(series, windows, kind, RESOLUTION * fit.trace.attrs.get("data_size", np.inf))
    if fit.settings.get("steps") == 0:
        verdict, reason = "cannot tell", "nothing was trained"
    elif not np.isfinite(fit.trace.iterate_step.values).any():
        verdict, reason = "cannot tell", UNRECORDED
    if _shortest(series) < _needed(windows):
        return Convergence(xr.Dataset(), verdict, f"{reason}.", np.nan, np.nan)
    cut = {name: _cut([restart[name] for restart in series], windows) for name in series[0]}
    steps = cut.pop("step")
    table = _table(cut, steps)
    table.attrs["objective"] = kind
    gain = abs(float(cut[ELBO][0].mean() - cut[ELBO][-1].mean()))
    table = _judged(table, cut, gain)
    reason += _slowed(fit) if verdict == "converged" else ""
    last = cut[ELBO][-1]
    error = float("nan")
    if np.isfinite(last).all():
        error = float(np.sqrt(np.mean([_mcse(chain[None]) ** 2 for chain in last]) / len(last)))
    return Convergence(table, verdict, f"{reason}.", -float(last.mean()), error)


def judge(
    series: list[dict[str, Array]], windows: int, kind: str = "ELBO", resolution: float = np.inf
) -> tuple[str, str]:
    """The judgement of `convergence`, on series of iterates in place of a fit.

    Args:
        series: One dict a restart: iterates by quantity, ``negative_elbo`` among them; ``step`` is not looked at.
        windows: Number of windows, at least 2.
        kind: What to call minus the negative ELBO; default ``"ELBO"``.
        resolution: Drift in nats that has to be visible; default infinity.

    Returns:
        The verdict, and the reason without a full stop.
    """
    if (shortest := _shortest(series)) < (needed := _needed(windows)):
        return "cannot tell", f"{shortest} iterates after the KL warm-up say nothing: {needed} are needed at least"
    cut = {key: _cut([one[key] for one in series], windows) for key in series[0] if key != "step"}
    verdict, reason = _judge(cut, resolution)
    return verdict, reason.replace("the ELBO", f"the {kind}").replace(ELBO, f"minus the {kind}")


def check_windows(windows: int) -> None:
    """Refuses fewer than two windows.

    Raises:
        ValueError: If there are fewer.
    """
    if windows < 2:
        raise ValueError(f"convergence compares windows with one another: windows must be at least 2, not {windows}")


def r_hat_limit(chains: int, length: int) -> float:
    """The R-hat that one in a thousand stationary series exceeds, or `R_HAT` where that is larger.

    R-hat^2 = (n - 1) / n + F / n, F with m - 1 and m (n - 1) degrees of freedom for m chains of n independent
    Normal draws; ArviZ cuts every chain into halves first.

    Args:
        chains: Number of chains before they are cut.
        length: Length of each.
    """
    m, n = 2 * chains, max(length // 2, 2)
    return max(R_HAT, float(np.sqrt((n - 1 + stats.f.ppf(0.999, m - 1, m * (n - 1))) / n)))


def _shortest(series: list[dict[str, Array]]) -> int:
    return min(len(one[ELBO]) for one in series)


def _needed(windows: int) -> int:
    """Iterates below which nothing is said."""
    return max(FEWEST, windows * FEWEST // 4)


def _after_warmup(fit: Fit) -> list[dict[str, Array]]:
    """Iterates of each restart by quantity, ``step`` among them, from the end of the KL warm-up on."""
    trace = fit.trace
    first = float(fit.settings.get("kl_warmup") or 0.0) * float(fit.settings.get("steps") or 0)
    series = []
    for restart in range(trace.sizes["restart"]):
        one = trace.isel(restart=restart)
        kept = one.iterate_step.values > first  # padding is NaN, and NaN > first is false
        found = {"step": one.iterate_step.values[kept], ELBO: one[ELBO].values[kept]}
        scales = one["scales"].transpose("iterate", "quantity").values[kept]
        found |= {str(name): scales[:, i] for i, name in enumerate(trace.quantity.values)}
        series.append(found)
    return series


def _cut(chains: list[Array], windows: int) -> list[Array]:
    """Windows of equal length, `(restart, iterate)` each; every restart is cut by its own length."""
    length = min(map(len, chains)) // windows
    parts = [np.array_split(chain, windows) for chain in chains]
    return [np.stack([part[w][-length:] for part in parts]) for w in range(windows)]


def _halves(window: Array) -> Array:
    """Both halves of one restart's window as chains, `(2, n)`; an odd first iterate is left out."""
    half = window.shape[-1] // 2
    return np.stack([window[-2 * half : -half], window[-half:]])


def _r_hat(chains: Array) -> float:
    """Rank-normalised R-hat of `(chain, iterate)`; NaN where it is not defined."""
    if not np.isfinite(chains).all() or (np.ptp(chains, axis=1) == 0).any():
        return float("nan")
    return float(arviz().rhat(chains))


def _ess(chains: Array) -> float:
    if not np.isfinite(chains).all() or np.ptp(chains) == 0:
        return float("nan")
    with np.errstate(over="ignore", invalid="ignore"):  # squares of a loss that has run away
        return float(arviz().ess(chains))


def _mcse(chains: Array) -> float:
    if not np.isfinite(chains).all():
        return float("nan")
    if np.ptp(chains) == 0:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # squares of a loss that has run away
        return float(arviz().mcse(chains))


def _table(cut: dict[str, list[Array]], steps: list[Array]) -> xr.Dataset:
    def over(function: Callable[[Array], Any]) -> tuple[tuple[str, str], Array]:
        values = [[float(function(window)) for window in parts] for parts in cut.values()]
        return ("window", "quantity"), np.array(values).T

    return xr.Dataset(
        {
            "r_hat": over(lambda window: _r_hat(_chains(window))),
            "r_hat_within": over(_r_hat_within),
            "ess": over(lambda window: _ess(_chains(window))),
            "mean": over(np.mean),
            "mcse": over(lambda window: _mcse(_chains(window))),
            "first_step": ("window", np.array([window.min() for window in steps])),
            "last_step": ("window", np.array([window.max() for window in steps])),
        },
        coords={"window": np.arange(1, len(steps) + 1), "quantity": list(cut)},
    )


def _judged(table: xr.Dataset, cut: dict[str, list[Array]], gain: float) -> xr.Dataset:
    """The table with what the verdict makes of each quantity, in every window as it does in the last one."""
    restarts, length = next(iter(cut.values()))[0].shape
    limit = r_hat_limit(2, length // 2)
    with np.errstate(invalid="ignore"):  # of what became infinite
        change = [[_change(window, name, gain) for window in windows] for name, windows in cut.items()]
        matters = [[not _small_change(window, name, gain) for window in windows] for name, windows in cut.items()]
    found = table.assign(
        change=(("window", "quantity"), np.array(change).T), matters=(("window", "quantity"), np.array(matters).T)
    )
    moves = found.matters & (found.r_hat_within > limit)  # NaN is not above anything
    return found.assign(moves=moves).assign_attrs(r_hat_limit=limit, restarts=restarts)


def _level(chain: Array) -> Array:
    """A series less its linear trend, `(1, n)`: a trend would count as noise and hide itself."""
    step = np.arange(len(chain), dtype=float)
    return (chain - np.polynomial.Polynomial.fit(step, chain, 1)(step))[None]


def _chains(window: Array) -> Array:
    """Restarts as chains; of a single restart the halves."""
    return window if len(window) > 1 else _halves(window[0])


def _r_hat_within(window: Array) -> float:
    """The largest R-hat between the halves of one restart; NaN where none is defined."""
    values = [_r_hat(_halves(chain)) for chain in window]
    return max((value for value in values if np.isfinite(value)), default=float("nan"))


def _judge(cut: dict[str, list[Array]], resolution: float) -> tuple[str, str]:
    """Verdict and reason (without its full stop) from the windows."""
    for name, windows in cut.items():
        if not all(np.isfinite(window).all() for window in windows):
            return "not converged", f"{name} became NaN or infinite"
    before, last = cut[ELBO][-2:]
    if np.ptp(last) == 0:
        return "cannot tell", "the ELBO did not change at all in the last window"
    gain = abs(float(cut[ELBO][0].mean() - last.mean()))
    invisible = 0.0
    for number, (earlier, later) in enumerate(zip(before, last, strict=True)):
        drift = float(later.mean() - earlier.mean())
        noise = ERRORS * float(np.hypot(_mcse(_level(earlier)), _mcse(_level(later))))
        invisible = max(invisible, noise)
        if abs(drift) > max(noise, SMALL_DRIFT * gain):
            moved = "rises" if drift < 0 else "falls"
            where = f" in restart {number}" if len(last) > 1 else ""
            return "not converged", (
                f"the ELBO still {moved}{where}, by {abs(drift):,.3g} nats between the last two windows "
                f"(noise {noise:,.2g})"
            )
    moving = _moving({name: windows[-1] for name, windows in cut.items()}, gain)
    if moving is not None:
        return "not converged", moving
    limit = r_hat_limit(len(last), last.shape[1])
    across = _r_hat(last) if len(last) > 1 else 1.0
    gap = float(np.ptp(last.mean(axis=1)))
    if across > limit and gap > SMALL_GAP * gain:
        return "not converged", f"the restarts differ in the ELBO by {gap:,.3g} nats (R-hat {across:.2f})"
    chance = _r_hat_within(last)
    if chance > R_HAT and not _small_change(last, ELBO, gain):
        return "cannot tell", (
            f"R-hat of the ELBO is {chance:.2f} in the last window, which chance explains with its "
            f"{last.shape[1]} iterates: fit longer"
        )
    if invisible > resolution:
        return "cannot tell", (
            f"a drift of the ELBO of up to {invisible:,.3g} nats between the last two windows would not be seen, of "
            f"which {resolution:,.3g} would matter: fit longer, or with more particles or larger batches"
        )
    return "converged", "the ELBO and the scales are stationary in the last window"


def _moving(last: dict[str, Array], gain: float) -> str | None:
    """Names the quantity that moves most within the last window of a restart, if one does."""
    worst, sentence = 0.0, None
    for name, window in last.items():
        limit = r_hat_limit(2, window.shape[1] // 2)
        r_hat = _r_hat_within(window)
        if r_hat > max(limit, worst) and not _small_change(window, name, gain):
            worst, sentence = (
                r_hat,
                f"{name} still moves in the last window (R-hat {r_hat:.2f} between its halves)",
            )
    return sentence


def _small_change(window: Array, name: str, gain: float) -> bool:
    """Whether the means of the halves of a window differ too little to matter, in every restart."""
    change, size = _halfway(window, name, gain)
    return bool((change <= allowed_change(name) * size).all())


def allowed_change(name: str) -> float:
    """Largest change between the halves of a window that is too small to matter, as a share; see `Convergence`."""
    return SMALL_DRIFT if name == ELBO else SMALL_CHANGE


def _change(window: Array, name: str, gain: float) -> float:
    """The largest change between the halves of a window, relative to what it is measured by; NaN where that is 0."""
    change, size = _halfway(window, name, gain)
    return float(np.max(np.divide(change, size, out=np.full_like(change, np.nan), where=size > 0)))


def _halfway(window: Array, name: str, gain: float) -> tuple[Array, Array]:
    """By restart: the change between the halves of a window, and the size of which it is a share."""
    means = np.stack([_halves(chain).mean(axis=1) for chain in window])
    change = np.abs(means[:, 1] - means[:, 0])
    if name == ELBO:
        return change, np.full_like(change, gain)
    # A change of a logarithm (or logit) is relative by itself.
    if name.removeprefix("mean ").startswith(("log ", "logit ")):
        return change, np.ones_like(change)
    return change, np.abs(means).max(axis=1)


def _slowed(fit: Fit) -> str:
    """Says by how much the learning rate had fallen at the end, if to less than a tenth."""
    if "learning_rate" not in fit.trace:
        return ""
    rates = fit.trace["learning_rate"].values
    if not np.isfinite(rates).any():  # of a loop of one's own nobody may know them
        return ""
    share = float(np.nanmin(rates) / np.nanmax(rates)) if np.nanmax(rates) > 0 else 1.0
    if share >= 0.1:
        return ""
    return f" (where the learning rate had fallen to {share:.1g} of its start, which stills any fit)"
