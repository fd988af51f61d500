"""`convergence` against independent formulas and on series whose verdict is known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import bayesprune as bp
from bayesprune.analysis.diagnostics.convergence import ELBO, convergence, r_hat_limit

N = 800  # iterates of a synthetic fit
MOST = 18  # of 20 seeds


def synthetic(elbo, scales=None, warmup=0.0, names=("log fc1.weight.tau",), rates=None, is_map=False):
    """A fit that has nothing but a trace: `elbo` and `scales` over (restart, iterate[, quantity])."""
    elbo = np.atleast_2d(elbo)
    restarts, length = elbo.shape
    if scales is None:
        scales = np.ones((restarts, length, len(names)))
    steps = np.where(np.isnan(elbo), np.nan, np.arange(1.0, length + 1.0))
    data = {
        ELBO: (("restart", "iterate"), elbo),
        "iterate_step": (("restart", "iterate"), steps),
        "scales": (("restart", "iterate", "quantity"), np.asarray(scales, dtype=float)),
    }
    if rates is not None:
        data["learning_rate"] = (("restart", "epoch"), np.tile(rates, (restarts, 1)))
    trace = xr.Dataset(data, coords={"quantity": list(names)})
    one = SimpleNamespace(guide=SimpleNamespace(is_map=is_map))
    return SimpleNamespace(trace=trace, settings={"kl_warmup": warmup, "steps": length}, restarts=[one] * restarts)


def noise(seed, restarts=1, length=N):
    return np.random.default_rng(seed).normal(size=(restarts, length))


def verdicts(series, seeds=20, **how):
    """How often each verdict is given over seeds, for `series(seed)`."""
    found = [convergence(synthetic(series(seed), **how)).verdict for seed in range(seeds)]
    return {verdict: found.count(verdict) for verdict in ("converged", "not converged", "cannot tell")}


# ------------------------------------------------------------------------------------------------- formulas


def rank_r_hat(chains):
    """Rank-normalised split R-hat of Vehtari et al. 2021, from its formulas: the larger of bulk and tail."""
    half = chains.shape[1] // 2
    split = np.concatenate([chains[:, :half], chains[:, -half:]])

    def of(values):
        ranks = stats.rankdata(values, axis=None).reshape(values.shape)
        z = stats.norm.ppf((ranks - 0.375) / (values.size + 0.25))
        n = z.shape[1]
        within = z.var(axis=1, ddof=1).mean()
        between = n * z.mean(axis=1).var(ddof=1)
        return math.sqrt(((n - 1) / n * within + between / n) / within)

    return max(of(split), of(np.abs(split - np.median(split))))


def test_r_hat_of_restarts_is_the_published_formula_in_every_window():
    elbo = 50 + noise(0, restarts=3) + np.arange(3)[:, None] * 0.3
    table = convergence(synthetic(elbo)).table
    for window, part in enumerate(np.split(elbo, 4, axis=1)):
        expected = rank_r_hat(part)
        assert expected > 1.01  # restarts differ, so that the test has something to measure
        assert float(table.r_hat.sel(quantity=ELBO)[window]) == pytest.approx(expected, rel=1e-9)


def test_r_hat_of_one_restart_takes_the_halves_of_a_window_as_chains():
    elbo = 50 + noise(1) + np.linspace(0, 2, N)
    table = convergence(synthetic(elbo)).table
    last = np.split(elbo[0], 4)[-1].reshape(2, -1)
    assert float(table.r_hat.sel(quantity=ELBO)[-1]) == pytest.approx(rank_r_hat(last), rel=1e-9)
    assert float(table.r_hat_within.sel(quantity=ELBO)[-1]) == pytest.approx(rank_r_hat(last), rel=1e-9)
    assert rank_r_hat(np.split(elbo[0], 4)[0].reshape(2, -1)) != pytest.approx(rank_r_hat(last), rel=1e-3)  # control


def test_the_elbo_and_its_error_are_those_of_the_last_window():
    elbo = 50 + 3 * noise(2, restarts=2)
    found = convergence(synthetic(elbo))
    last = elbo[:, -N // 4 :]
    assert found.elbo == pytest.approx(-last.mean())
    # White noise: the error of a mean is sd / sqrt(n).
    assert found.elbo_error == pytest.approx(3 / math.sqrt(last.size), rel=0.35)
    four_times = convergence(synthetic(50 + 12 * noise(2, restarts=2)))
    assert four_times.elbo_error == pytest.approx(4 * found.elbo_error, rel=1e-6)


def test_the_table_says_where_the_windows_lie():
    table = convergence(synthetic(noise(3, length=100), warmup=0.2), windows=4).table
    assert table.first_step.values.tolist() == [21, 41, 61, 81]
    assert table.last_step.values.tolist() == [40, 60, 80, 100]


def test_the_limit_is_what_one_in_a_thousand_stationary_windows_exceeds():
    rng = np.random.default_rng(0)

    def plain(chains):  # split R-hat without ranks, for which the F distribution is exact
        z = np.concatenate(np.split(chains, 2, axis=1))
        n = z.shape[1]
        return math.sqrt((n - 1) / n + z.mean(axis=1).var(ddof=1) / z.var(axis=1, ddof=1).mean())

    drawn = np.array([plain(rng.normal(size=(2, 20))) for _ in range(4000)])
    assert 0 < (drawn > r_hat_limit(2, 20)).mean() < 0.004
    assert r_hat_limit(2, 20) > r_hat_limit(2, 40) > 1.05
    assert r_hat_limit(2, 10_000) == 1.05


# ------------------------------------------------------------------------------------------------- verdicts


def test_stationary_noise_is_converged():
    assert verdicts(noise)["converged"] >= MOST
    assert verdicts(lambda seed: noise(seed, restarts=3))["converged"] >= MOST


def test_a_fit_that_levelled_off_early_is_converged():
    curve = 40 * np.exp(-np.arange(N) / (N / 25))
    assert verdicts(lambda seed: noise(seed) + curve)["converged"] >= MOST


@pytest.mark.parametrize(
    "curve",
    [
        -8 * np.linspace(0, 1, N),
        30 * np.exp(-2 * np.linspace(0, 1, N)),
        np.exp(4 * np.linspace(0, 1, N)),
    ],
    ids=["drifting", "still decaying", "diverging"],
)
def test_a_fit_that_moves_is_not_converged(curve):
    assert verdicts(lambda seed: noise(seed) + curve)["not converged"] == 20


def test_the_reason_says_which_way_the_elbo_goes():
    up = convergence(synthetic(noise(0) - 20 * np.linspace(0, 1, N)))
    down = convergence(synthetic(noise(0) + 20 * np.linspace(0, 1, N)))
    assert up.reason.startswith("the ELBO still rises, by")
    assert down.reason.startswith("the ELBO still falls, by")
    assert convergence(synthetic(noise(0) - 20 * np.linspace(0, 1, N), is_map=True)).reason.startswith("the log joint")


def test_more_drift_never_looks_more_converged():
    rank = {"converged": 0, "cannot tell": 1, "not converged": 2}
    slopes = [0.0, 2.0, 4.0, 8.0, 16.0, 64.0]
    for seed in range(5):
        found = [rank[convergence(synthetic(noise(seed) - s * np.linspace(0, 1, N))).verdict] for s in slopes]
        assert found == sorted(found)
        assert found[0] == 0 and found[-1] == 2


def test_one_restart_that_moves_is_enough():
    elbo = noise(0, restarts=3)
    assert convergence(synthetic(elbo)).verdict == "converged"
    elbo[1] -= 12 * np.linspace(0, 1, N)
    found = convergence(synthetic(elbo))
    assert found.verdict == "not converged" and "restart 1" in found.reason


def test_a_drift_far_below_all_that_was_gained_does_not_matter():
    quiet = 0.001 * noise(0) - 0.1 * np.linspace(0, 1, N)
    gained = 1000.0 * np.exp(-np.arange(N) / 10.0)
    assert convergence(synthetic(quiet)).verdict == "not converged"  # control: with nothing gained it matters
    assert convergence(synthetic(quiet + gained)).verdict == "converged"


def test_restarts_that_stop_at_different_elbos_are_not_converged():
    elbo = noise(0, restarts=2) + np.array([[0.0], [5.0]])
    found = convergence(synthetic(elbo))
    assert found.verdict == "not converged"
    assert found.reason.startswith("the restarts differ in the ELBO")


def test_a_scale_that_moves_is_named():
    scales = np.stack([np.zeros(N), np.linspace(0, 1, N)], axis=-1)[None]
    found = convergence(synthetic(noise(0), scales, names=("log tau", "mean log lam")))
    assert found.verdict == "not converged"
    assert found.reason.startswith("mean log lam still moves")


def test_a_scale_that_creeps_by_less_than_a_percent_is_settled():
    creeping = np.linspace(0, 0.02, N)[None, :, None]
    found = convergence(synthetic(noise(0), creeping))
    assert float(found.table.r_hat.isel(quantity=1, window=-1)) > 1.5  # R-hat alone would fail it
    assert found.verdict == "converged"


@pytest.mark.parametrize(("name", "size"), [("rms fc1.weight", 0.002), ("mean fc1.weight.z", 0.01)])
def test_scales_that_are_no_logarithms_are_judged_by_relative_change(name, size):
    ramp = np.linspace(0, 1, N)[None, :, None]
    settled, moving = (convergence(synthetic(noise(0), size * (1 + s * ramp), names=(name,))) for s in (0.02, 0.5))
    assert (settled.verdict, moving.verdict) == ("converged", "not converged")


def test_restarts_may_end_at_different_scales():
    scales = 0.01 * noise(1, restarts=2)[:, :, None] + np.array([0.0, 3.0])[:, None, None]
    found = convergence(synthetic(noise(0, restarts=2), scales))
    assert float(found.table.r_hat.isel(quantity=1, window=-1)) > 1.5
    assert found.verdict == "converged"


def test_only_iterates_after_the_warmup_count():
    elbo = noise(0)
    elbo[:, : N // 2] += 100 * np.linspace(0, 1, N // 2)
    assert convergence(synthetic(elbo, warmup=0.5)).verdict == "converged"
    assert convergence(synthetic(elbo, warmup=0.5)).table.first_step[0] == N // 2 + 1
    drifts_late = noise(0) - 20 * np.linspace(0, 1, N)
    assert convergence(synthetic(drifts_late, warmup=0.5)).verdict == "not converged"


@pytest.mark.parametrize(("length", "windows", "told"), [(39, 4, False), (40, 4, True), (79, 8, False), (80, 8, True)])
def test_too_few_iterates_tell_nothing(length, windows, told):
    found = convergence(synthetic(noise(0, length=length)), windows=windows)
    assert bool(found.table.sizes) is told
    if not told:
        assert found.verdict == "cannot tell"
        assert found.reason.startswith(f"{length} iterates after the KL warm-up say nothing")
        assert math.isnan(found.elbo)
        assert str(found) == f"cannot tell: {found.reason}"


def test_in_short_windows_chance_is_no_verdict():
    found = verdicts(lambda seed: noise(seed, length=60))
    assert found["not converged"] <= 2
    assert found["cannot tell"] >= 1


def test_a_noise_that_hides_a_drift_which_matters_tells_nothing():
    noisy = synthetic(20 * noise(0))
    assert convergence(noisy).verdict == "converged"  # nothing is known about the number of examples
    noisy.trace.attrs["data_size"] = 100
    found = convergence(noisy)
    assert found.verdict == "cannot tell"
    last, before = (np.split(noisy.trace[ELBO].values[0], 4)[at] for at in (-1, -2))
    expected = 3 * math.sqrt((last.var() + before.var()) / (N // 4))  # white noise
    told = float(found.reason.split("of up to ")[1].split()[0])
    assert told == pytest.approx(expected, rel=0.35)
    noisy.trace.attrs["data_size"] = 10_000  # of which 200 nats are 0.02 each
    assert convergence(noisy).verdict == "converged"


def test_a_constant_elbo_tells_nothing_and_a_constant_scale_is_settled():
    assert convergence(synthetic(np.full((1, N), 5.0))).verdict == "cannot tell"
    assert convergence(synthetic(noise(0), np.full((1, N, 1), 2.0))).verdict == "converged"


def test_a_value_that_is_not_finite_is_named():
    scales = np.ones((1, N, 1))
    scales[0, N // 2] = np.inf
    found = convergence(synthetic(noise(0), scales))
    assert found.verdict == "not converged"
    assert found.reason == "log fc1.weight.tau became NaN or infinite."


def test_restarts_of_unequal_length_are_cut_each_by_its_own():
    elbo = noise(0, restarts=2)
    elbo[1, N // 2 :] = np.nan  # padding, as the trace has it for a restart that was stopped early
    found = convergence(synthetic(elbo))
    assert found.verdict == "converged"
    shorter = np.stack([np.split(elbo[0], 4)[-1][-N // 8 :], np.split(elbo[1, : N // 2], 4)[-1]])
    assert float(found.table["mean"].sel(quantity=ELBO)[-1]) == pytest.approx(shorter.mean())


def test_a_learning_rate_that_fell_is_told():
    faded = convergence(synthetic(noise(0), rates=np.array([1e-2, 1e-3, 1e-5])))
    held = convergence(synthetic(noise(0), rates=np.array([1e-2, 1e-2, 1e-2])))
    assert faded.verdict == held.verdict == "converged"
    assert "learning rate had fallen to 0.001 of its start" in faded.reason
    assert "learning rate" not in held.reason


def test_one_window_cannot_be_compared():
    with pytest.raises(ValueError, match="windows must be at least 2, not 1"):
        convergence(synthetic(noise(0)), windows=1)


# ------------------------------------------------------------------------------------------------- real fits


def test_a_short_fit_is_not_called_converged(horseshoe):
    assert convergence(horseshoe).verdict == "cannot tell"  # 30 steps, 20 % of them warm-up


def test_a_fit_is_judged_by_its_own_trace(make_fit):
    fit = make_fit({"fc3.weight": bp.Gaussian(0.3)}, epochs=20, kl_warmup=0.2)
    found = convergence(fit)
    assert found.verdict in ("converged", "not converged", "cannot tell")
    steps = fit.trace.iterate_step.values[0]
    after = fit.trace[ELBO].values[0][steps > 0.2 * fit.settings["steps"]]
    assert found.elbo == pytest.approx(-np.array_split(after, 4)[-1].mean())
    assert list(found.table.quantity.values) == [ELBO, *fit.trace.quantity.values]
    printed = str(found).splitlines()
    assert printed[0].startswith(found.verdict)
    assert printed[1].startswith("final ELBO")
    assert sum(line.startswith(ELBO) for line in printed) == 1
