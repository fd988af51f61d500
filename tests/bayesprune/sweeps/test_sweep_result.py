"""What a sweep came to: settings over their seeds, the best, and fronts."""

from __future__ import annotations

import numpy as np
import pytest

from bayesprune.sweeps.sweep_result import FAILED, PRUNED, RUNNING, Sweep, SweepFit
from tests.bayesprune.sweeps.sweeps_by_hand import KAPPAS, fit_by_hand, sweep_by_hand


def test_the_table_has_the_scores_of_complete_fits_by_setting_and_seed():
    others = [SweepFit({"set.kappa": 7.0}, seed, state) for seed, state in enumerate((FAILED, PRUNED, RUNNING))]
    sweep = sweep_by_hand(*others)
    assert sweep.settings == [{"set.kappa": kappa} for kappa in KAPPAS]
    assert sweep.table.validation_accuracy.values.tolist()[1] == [0.93, 0.95]
    assert sweep.table.seed.values.tolist() == [0, 1] and bool(sweep.table.latency.isnull().all())
    assert sweep.sizes == ("density", "nonzero", "macs") and sweep.score == "accuracy"
    assert [one.state for one in sweep.fits_of({"set.kappa": 7.0})] == [FAILED, PRUNED, RUNNING]


def test_the_front_leaves_out_what_is_beaten_and_has_means_and_deviations_over_seeds():
    front = sweep_by_hand().front()
    assert front.setting.values.tolist() == [0, 1, 3] and front.number.values.tolist() == [1, 2, 3]
    np.testing.assert_allclose(front.validation_accuracy, [0.96, 0.94, 0.75])
    np.testing.assert_allclose(front.test_accuracy, [0.86, 0.84, 0.65])
    np.testing.assert_allclose(front.density_sd, np.array([0.02, 0.02, 0.0]) / 2**0.5, atol=1e-12)
    assert front.seeds.values.tolist() == [2, 2, 2]
    assert sweep_by_hand().front("nll", "macs").setting.values.tolist() == [0, 1, 3]


def test_a_front_of_several_sizes_keeps_what_is_small_in_any():
    fits = [fit_by_hand(kappa, 0, trial=None) for kappa in KAPPAS]
    scores = dict(fits[2].scores) | {"macs": 1.0}  # beaten by 1 in density, and by none in MACs
    fits[2] = SweepFit(fits[2].settings, 0, "complete", scores=scores)
    sweep = Sweep(fits[0].run, {}, ("validation_nll",), tuple(fits))
    assert sweep.front(against="density").setting.values.tolist() == [0, 1, 3]
    assert sweep.front(against=["density", "macs"]).setting.values.tolist() == [0, 2, 1, 3]


def test_one_seed_has_no_deviation():
    front = sweep_by_hand(seeds=(1,)).front()
    assert front.setting.values.tolist() == [1, 3]  # of equal accuracies, the smaller network
    assert bool(front.validation_accuracy_sd.isnull().all())


def test_a_lucky_seed_alone_is_neither_the_best_nor_on_the_front():
    lucky = {"validation_accuracy": 0.99, "density": 0.01, "seconds": 1.0}
    sweep = sweep_by_hand(SweepFit({"set.kappa": 7.0}, 0, "complete", scores=lucky))
    assert sweep.best()[0] == {"set.kappa": 0.1}
    assert 4 not in sweep.front().setting.values
    both = sweep_by_hand(*(SweepFit({"set.kappa": 7.0}, seed, "complete", scores=lucky) for seed in (0, 1)))
    assert both.best()[0] == {"set.kappa": 7.0} and both.front().setting.values.tolist() == [4]  # the control


def test_the_best_is_the_largest_accuracy_and_the_smallest_of_all_else():
    sweep = sweep_by_hand(objectives=("validation_nll", "density"))
    settings, scores = sweep.best()
    assert settings == {"set.kappa": 0.1} and scores["validation_nll"] == pytest.approx(0.04)
    assert sweep.best("density")[0] == {"set.kappa": 100.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda sweep: sweep.front("rmse"), "has no score 'rmse' on validation data: it has accuracy, nll"),
        (lambda sweep: sweep.front(against="latency"), "has no 'latency', which was not measured: sweep with"),
        (lambda sweep: sweep.front(against="weight"), "has no 'weight', .*: it has density, nonzero, macs"),
        (lambda sweep: sweep.best("elbo"), "no fit of the sweep runs/sweep has the score 'elbo'"),
    ],
)
def test_bad_input_is_told_in_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(sweep_by_hand())


def test_a_sweep_without_a_complete_fit_says_so():
    sweep = Sweep(sweep_by_hand().folder, {}, ("validation_nll",), (SweepFit({}, 0, RUNNING),))
    assert sweep.settings == [] and sweep.sizes == ()
    for ask in (sweep.front, lambda: sweep.score, sweep.best):
        with pytest.raises(ValueError, match="no fit of the sweep"):
            ask()
