"""`RunTrial` as it is in Ray Tune: skipped where ray is not installed, which no extra brings."""

from __future__ import annotations

import importlib

import pytest

import bayesprune as bp
from bayesprune.sweeps.trial import RunTrial

ARGUMENTS = {"data": "digits", "prior": "spike-and-slab", "guide": "paired", "width": 0.05, "epochs": 2}


@pytest.mark.slow  # Ray starts its processes in half a minute
@pytest.mark.filterwarnings("ignore")  # those of Ray, which are its own
def test_ray_tune_takes_a_trial_as_it_is_and_stops_what_is_hopeless(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    tune = importlib.import_module("ray.tune")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # writes to no home folder
    trial = RunTrial(tmp_path / "fits", ARGUMENTS)
    densities = [0.05, 0.5]
    space = {"set.expected_density": tune.grid_search(densities), "seed": 3}
    how = tune.TuneConfig(metric="validation_nll", mode="min")
    where = tune.RunConfig(storage_path=str(tmp_path / "ray"), verbose=0)

    def reporting(config):
        return trial(config, report=lambda epoch, nll: tune.report({"validation_nll": nll, "epoch": epoch}))

    ray.init(num_cpus=1, include_dashboard=False)
    try:
        results = tune.Tuner(trial, param_space=space, tune_config=how, run_config=where).fit()
        again = tune.Tuner(reporting, param_space=space | {"seed": 4}, tune_config=how, run_config=where).fit()
    finally:
        ray.shutdown()
    assert not results.errors and not again.errors
    here = RunTrial(tmp_path / "here", ARGUMENTS)
    for result in results:
        alone = here(result.config)
        assert result.metrics["validation_nll"] == alone["validation_nll"]  # bit for bit
        assert result.metrics["run"] == str(trial.place(result.config))
    assert len({result.metrics["validation_nll"] for result in results}) == 2  # control: settings matter
    assert all(list(result.metrics_dataframe["epoch"].dropna()) == [1, 2] for result in again)
    sweep = bp.load_sweep(tmp_path / "fits")
    assert sweep.table.sizes == {"setting": 2, "seed": 2} and bool(sweep.table.validation_nll.notnull().all())
