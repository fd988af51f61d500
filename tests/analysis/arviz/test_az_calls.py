"""What users type after `import arviz as az`, with whichever ArviZ is installed: no argument but the fit's tree."""

from __future__ import annotations

import importlib

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import bayesprune as bp
from bayesprune.analysis.arviz.shim import is_modular

DATA, DRAWS = 60, 100
MODULAR = is_modular(importlib.import_module("arviz").__version__)
DIST, PPC = ("plot_dist", "plot_ppc_dist") if MODULAR else ("plot_posterior", "plot_ppc")
PLOTS = ("plot_forest", "plot_trace", DIST, PPC, *(["plot_trace_dist"] if MODULAR else []))
STATISTICS = ("summary", "hdi", "extract")
pytestmark = [  # ArviZ's own, of quantities that are the same at every draw, and of few draws
    pytest.mark.filterwarnings("ignore:Your data appears to have a single value:UserWarning"),
    pytest.mark.filterwarnings("ignore:Attempting to set identical low and high xlims:UserWarning"),
    pytest.mark.filterwarnings("ignore:Degrees of freedom <= 0:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution:UserWarning"),
    pytest.mark.filterwarnings("ignore:num_samples is larger than the number of predictive samples:UserWarning"),
]


@pytest.fixture(scope="module")
def az():
    return importlib.import_module("arviz")


@pytest.fixture(scope="module")
def data():
    """A regression in units far from one: y = 50 + 20 x_0 - 10 x_2 with noise of sd 8."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(DATA, 3, generator=generator), torch.randn(DATA, generator=generator)
    return x.double(), (50 + 20 * x[:, 0] - 10 * x[:, 2] + 8 * noise).double()


@pytest.fixture(scope="module")
def fits(data):
    def fitted(prior, guide):
        torch.manual_seed(0)
        bnn = bp.BayesianNetwork(nn.Linear(3, 1), {"weight": prior}, bp.Normal(), DATA)
        how = {"epochs": 150, "learning_rate": 0.02, "precision": "float64", "device": "cpu", "execution": "plain"}
        return bp.fit(bnn, data, guide, seed=1, **how)

    return {
        "gates": fitted(bp.SpikeAndSlab(0.3), "paired"),
        "horseshoe": fitted(bp.Horseshoe(), "meanfield"),
        "map": fitted(bp.HALO(kappa=20.0), "map"),
    }


@pytest.fixture(scope="module")
def trees(fits, data):
    return {name: bp.to_arviz(fit, draws=DRAWS, data=data) for name, fit in fits.items()}


# ------------------------------------------------------------------------------------------------- the calls


@pytest.mark.parametrize("name", ["gates", "horseshoe", "map"])
@pytest.mark.parametrize("call", [*STATISTICS, *PLOTS])
def test_a_call_needs_nothing_but_the_tree(name, call, az, trees):
    assert getattr(az, call)(trees[name]) is not None
    plt.close("all")


@pytest.mark.parametrize("call", ["summary", "plot_forest", DIST])
def test_draws_along_one_dimension_would_need_it_named(call, az, fits):
    tree = bp.to_arviz(fits["gates"], draws=DRAWS, sample_dims="sample")
    if call == "summary" or not MODULAR:  # ArviZ 1's plots find the dimension in the tree
        with pytest.raises((TypeError, ValueError, AttributeError, KeyError)):
            getattr(az, call)(tree)
    else:
        getattr(az, call)(tree)


@pytest.mark.parametrize("name", ["gates", "horseshoe", "map"])
def test_a_file_is_read_by_arviz_and_drawn(name, az, trees, tmp_path):
    trees[name].to_netcdf(tmp_path / "fit.nc", engine="h5netcdf")
    back = az.from_netcdf(tmp_path / "fit.nc")
    assert isinstance(back, xr.DataTree if MODULAR else az.InferenceData)
    for group in ("posterior", "posterior_predictive", "observed_data"):
        written, read = trees[name][group], back[group]
        assert set(written.data_vars) == set(read.data_vars)
        for variable in written.data_vars:
            np.testing.assert_array_equal(written[variable], read[variable])
    assert back.attrs["diagnostics"] == trees[name].attrs["diagnostics"]
    assert list(az.summary(back).index) == list(az.summary(trees[name]).index)
    getattr(az, DIST)(back)
    getattr(az, PPC)(back)


def test_of_a_network_arviz_draws_what_is_named(az, spike):
    tree = bp.to_arviz(spike, draws=20)
    assert len(az.summary(tree)) > 40  # panels that ArviZ draws at most
    few = {"var_names": [".rms", ".included"], "filter_vars": "like"}
    getattr(az, DIST)(tree, **few)
    az.plot_trace(tree, **few)
    if MODULAR:  # control
        with pytest.raises(ValueError, match=r"Requested \d+ subplots, which exceeds"):
            az.plot_dist(tree)
    else:
        with pytest.warns(UserWarning, match="generating only 40 plots"):
            az.plot_posterior(tree)


def test_the_tree_is_of_the_kind_that_arviz_makes_itself(az, trees):
    assert isinstance(trees["gates"], xr.DataTree if MODULAR else az.InferenceData)
    assert trees["gates"]["posterior"]["weight"].dims == ("chain", "draw", "weight.output", "weight.input")


# ------------------------------------------------------------------------------------------------- no R-hat


def test_one_chain_has_no_r_hat(az, trees):
    for name in ("gates", "horseshoe"):
        table = az.summary(trees[name])
        assert table["r_hat"].astype(float).isna().all()
        assert table.loc["weight.rms", "ess_bulk"].astype(float) > 30
        assert np.isnan(az.rhat(trees[name])["weight.rms"].values)
        assert "bayesprune.convergence(fit) looks at the optimiser's iterates" in trees[name].attrs["diagnostics"]
    halves = trees["gates"]["posterior"]["weight.rms"].values.reshape(2, DRAWS // 2)
    assert float(az.rhat(halves)) == pytest.approx(1.0, abs=0.1)  # control: what would be made of two chains


def test_a_map_is_summarised_as_one_draw_without_a_spread(az, fits, trees):
    table = az.summary(trees["map"])
    assert table["sd"].astype(float).isna().all()
    point = fits["map"].guide.means()["weight.lam"].numpy().ravel()
    np.testing.assert_allclose(az.hdi(trees["map"])["weight.lam"].values.reshape(-1, 2).T, [point, point])
    assert not az.summary(trees["gates"])["sd"].astype(float).isna().any()  # control


# ------------------------------------------------------------------------------------------------- leave one out


@pytest.mark.parametrize("name", ["gates", "horseshoe"])
def test_arviz_s_leave_one_out_is_that_of_bp_loo(name, az, fits, trees, data):
    own = bp.loo(fits[name], data, draws=DRAWS, points=None).guide
    theirs = az.loo(trees[name], pointwise=True, reff=1.0)  # the draws are independent
    pointwise = (theirs.elpd_i if MODULAR else theirs.loo_i).values
    np.testing.assert_allclose(pointwise, own.pointwise, rtol=1e-8)
    np.testing.assert_allclose(theirs.pareto_k.values, own.khat, rtol=1e-6)
    bare = az.loo(trees[name])  # with an effective sample size that ArviZ estimates
    assert (bare.elpd if MODULAR else bare.elpd_loo) == pytest.approx(own.elpd, abs=0.5)
    inside = np.log(np.exp(trees[name]["log_likelihood"]["y"].values[0]).mean(axis=0)).sum()
    assert inside - own.elpd > 1.0  # control: the density of points that were not left out


def test_leave_one_out_of_a_map_is_refused_and_not_made_up(az, trees):
    assert "log_likelihood" not in trees["map"]
    assert "all draws of this fit are alike" in trees["map"].attrs["left_out"]
    with pytest.raises(TypeError, match="log likelihood not found"):
        az.loo(trees["map"])
    assert "log_likelihood" in trees["gates"]  # control


def test_without_the_data_leave_one_out_finds_nothing_to_take_for_them(az, fits, data):
    for how in ({}, {"data": data, "pointwise": False}):
        tree = bp.to_arviz(fits["gates"], draws=4, **how)
        with pytest.raises(TypeError, match="log likelihood not found"):
            az.loo(tree)


def test_a_draw_that_is_far_off_does_not_make_leave_one_out_nan(az, monkeypatch):
    """In single precision exp(-120) is 0, and ArviZ divides by a quartile of such weights."""
    torch.manual_seed(0)
    x = torch.randn(20, 3)
    fit = bp.fit(bp.BayesianNetwork(nn.Linear(3, 1), {"weight": bp.Gaussian()}, bp.Normal(), 20), (x, x[:, 0]), steps=5)
    density, calls = bp.Normal.log_prob, iter(range(10_000))

    def odd(self, outputs, y):
        found = density(self, outputs, y).clone()
        if next(calls) == 7:
            found[3] = -120.0
        return found

    monkeypatch.setattr(bp.Normal, "log_prob", odd)
    tree = bp.to_arviz(fit, draws=400, data=(x, x[:, 0]))
    values = tree["log_likelihood"]["y"]
    assert float(values.min()) == -120.0 and not values.isnull().any()
    found = az.loo(tree, pointwise=True)
    assert float(found.pareto_k[3]) > 1 and np.isfinite(found["elpd" if MODULAR else "elpd_loo"])
    tree["log_likelihood"]["y"] = values.astype("float32")  # control
    with np.errstate(all="ignore"):
        single = az.loo(tree, pointwise=True)
    assert not float(single.pareto_k[3]) > 1
