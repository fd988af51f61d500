"""`to_arviz`: its values are the fit's draws, its densities those of independent formulas, and it survives netCDF.

Here along the one dimension `sample`; what the installed ArviZ does with the default is in test_az_calls.py.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import nn
from torch.nn import functional

import bayesprune as bp
from bayesprune.analysis.arviz.shim import arviz

DRAWS = 7


def to_arviz(fit, **how):
    return bp.to_arviz(fit, sample_dims="sample", **how)


@pytest.fixture(scope="module")
def trees(gaussian, horseshoe, halo, spike):
    fits = {"gaussian": gaussian, "horseshoe": horseshoe, "halo": halo, "spike": spike}
    return {name: to_arviz(fit, draws=DRAWS) for name, fit in fits.items()}


def parameters(fit, restart=0):
    """Location and sd of every Normal of a guide with one family, by site, taken apart by hand."""
    (family,) = fit.restarts[restart].guide.families
    cut, at = {}, 0
    for site in family.sites:
        size = int(np.prod(site.shape))
        part = slice(at, at + size)
        cut[site.name] = tuple(v[part].detach().double().numpy() for v in (family.location, family.log_scale.exp()))
        at += size
    return cut


# ------------------------------------------------------------------------------------------------- posterior


def test_weights_that_are_asked_for_are_the_draws_of_the_fit(gaussian):
    tree = to_arviz(gaussian, draws=DRAWS, weights="fc[13].weight")
    draws = gaussian.draws(DRAWS)
    for name in ("fc1.weight", "fc2.weight", "fc3.weight"):
        assert tree["posterior"][name].dims == ("sample", f"{name}.output", f"{name}.input")
        np.testing.assert_array_equal(tree["posterior"][name].values, draws[name].numpy())
    assert "left_out" not in tree.attrs


def test_weights_of_small_tensors_are_kept_and_those_of_large_ones_only_if_asked_for(gaussian, trees):
    for tree in trees.values():
        assert {"fc1.weight", "fc2.weight", "fc3.weight"} & set(tree["posterior"].data_vars) == {
            "fc2.weight",
            "fc3.weight",
        }
        left_out = json.loads(tree.attrs["left_out"])
        assert left_out["fc1.weight"] == "768 weights, above 512: weights='fc1.weight' keeps them"
        assert "fc2.weight" not in left_out
    np.testing.assert_array_equal(trees["gaussian"]["posterior"]["fc3.weight"], gaussian.draws(DRAWS)["fc3.weight"])


def test_small_sites_are_the_draws_and_large_ones_their_summaries(horseshoe, trees):
    posterior, draws = trees["horseshoe"]["posterior"], horseshoe.draws(DRAWS)
    np.testing.assert_array_equal(posterior["fc1.weight.tau"].values, draws["fc1.weight.tau"].numpy())
    np.testing.assert_array_equal(posterior["fc3.weight.lam"].values, draws["fc3.weight.lam"].numpy())
    large = draws["fc1.weight.lam"]
    assert large[0].numel() > 512 and "fc1.weight.lam" not in posterior
    np.testing.assert_allclose(posterior["fc1.weight.lam.mean_log"], large.log().mean(dim=(1, 2)), rtol=1e-5, atol=1e-6)
    by_output = posterior["fc1.weight.lam.output_mean_log"]
    assert by_output.dims == ("sample", "fc1.weight.output")
    np.testing.assert_allclose(by_output, large.log().mean(dim=2), rtol=1e-5, atol=1e-6)
    z = draws["fc1.weight.z"]
    np.testing.assert_allclose(posterior["fc1.weight.z.rms"], z.square().mean(dim=(1, 2)).sqrt(), rtol=1e-5)


def test_gates_are_zeros_and_ones_as_integers(spike, trees):
    gates = trees["spike"]["posterior"]["fc2.weight.z"]
    assert gates.dtype == np.int8
    np.testing.assert_array_equal(gates.values, spike.draws(DRAWS)["fc2.weight.z"].numpy())
    assert set(np.unique(gates)) == {0, 1}


def test_included_counts_the_weights_that_are_not_zero(spike, trees):
    posterior, draws = trees["spike"]["posterior"], spike.draws(DRAWS)
    for name in ("fc1.weight", "fc2.weight", "fc3.weight"):
        nonzero = (draws[name] != 0).numpy()
        np.testing.assert_array_equal(posterior[f"{name}.included"], nonzero.sum(axis=(1, 2)))
        np.testing.assert_allclose(posterior[f"{name}.output_included"], nonzero.mean(axis=2), rtol=1e-6)
        np.testing.assert_allclose(posterior[f"{name}.rms"], draws[name].square().mean(dim=(1, 2)).sqrt(), rtol=1e-5)


def test_included_follows_a_relative_event(gaussian, trees):
    weight = gaussian.draws(DRAWS)["fc1.weight"].numpy()
    rms = np.sqrt((weight**2).mean(axis=(1, 2), keepdims=True))
    expected = (np.abs(weight) > 0.1 * rms).sum(axis=(1, 2))
    np.testing.assert_array_equal(trees["gaussian"]["posterior"]["fc1.weight.included"], expected)


def test_effective_weights_average_to_those_of_the_fit(horseshoe, trees):
    posterior = to_arviz(horseshoe, draws=20)["posterior"]
    expected = horseshoe.effective_parameters(draws=20)
    for name in ("fc1.weight", "fc2.weight", "fc3.weight"):
        found = float(posterior[f"{name}.effective"].mean())
        assert found == pytest.approx(float(expected["mean"].sel(tensor=name)), rel=1e-5)
    assert "fc1.weight.effective" not in trees["gaussian"]["posterior"]


def test_the_posterior_is_of_the_restart_that_is_asked_for(spike):
    second = to_arviz(spike, draws=DRAWS, restart=1)
    expected = spike.draws(DRAWS, restart=1)
    np.testing.assert_array_equal(second["posterior"]["fc3.weight.z"].values, expected["fc3.weight.z"].numpy())
    assert second.attrs["restart"] == 1
    first = spike.draws(DRAWS)["fc3.weight.z"].numpy()
    assert (first != second["posterior"]["fc3.weight.z"].values).any()  # control


def test_a_map_is_one_sample_without_densities_and_probabilities(halo, trees):
    tree = trees["halo"]
    assert tree["posterior"].sizes["sample"] == 1
    assert set(tree.children) == {"posterior", "training"}
    assert "MAP" in tree.attrs["no_inclusion"]
    point = halo.guide.means()["fc3.weight.lam"].numpy()
    np.testing.assert_allclose(tree["posterior"]["fc3.weight.lam"].values[0], point, rtol=1e-6)


def test_nothing_has_chains(trees):
    for tree in trees.values():
        for node in tree.subtree:
            assert not {"chain", "draw"} & set(node.dims)


# ------------------------------------------------------------------------------------------------- densities


def test_the_densities_of_a_mean_field_gaussian_are_sums_of_normals(gaussian, trees):
    draws = gaussian.draws(DRAWS)
    log_q = np.zeros(DRAWS)
    log_prior = np.zeros(DRAWS)
    for name, (location, sd) in parameters(gaussian).items():
        values = draws[name].double().numpy().reshape(DRAWS, -1)
        log_q += stats.norm.logpdf(values, location, sd).sum(axis=1)
        log_prior += stats.norm.logpdf(values, 0.0, 0.3).sum(axis=1)
    sample_stats = trees["gaussian"]["sample_stats"]
    np.testing.assert_allclose(sample_stats["log_q"], log_q, rtol=1e-4)
    np.testing.assert_allclose(sample_stats["log_prior"], log_prior, rtol=1e-4)
    assert np.abs(log_q - log_prior).min() > 1.0  # control: the two are not the same number


def test_the_densities_of_a_paired_guide_are_those_of_gates_and_slabs(spike, trees):
    (family,) = spike.guide.families
    draws = spike.draws(DRAWS)
    log_q, log_prior, at = np.zeros(DRAWS), np.zeros(DRAWS), 0
    for pair in family.pairs:
        size = int(np.prod(pair.slab.shape))
        part, at = slice(at, at + size), at + size
        location, sd = (v[part].detach().double().numpy() for v in (family.location, family.log_scale.exp()))
        probability = family.logit[part].detach().double().sigmoid().numpy()
        z = draws[pair.gate.name].double().numpy().reshape(DRAWS, -1)
        slab = draws[pair.slab.name].double().numpy().reshape(DRAWS, -1)
        prior_sd = float(spike.model.priors[pair.slab.tensor]._constant("slab", *_slab(spike, pair)).scale)
        given_on, given_off = stats.norm.logpdf(slab, location, sd), stats.norm.logpdf(slab, 0.0, prior_sd)
        log_q += (stats.bernoulli.logpmf(z, probability) + np.where(z == 1, given_on, given_off)).sum(axis=1)
        log_prior += (stats.bernoulli.logpmf(z, 0.2) + given_off).sum(axis=1)
    np.testing.assert_allclose(trees["spike"]["sample_stats"]["log_q"], log_q, rtol=1e-4)
    np.testing.assert_allclose(trees["spike"]["sample_stats"]["log_prior"], log_prior, rtol=1e-4)


def _slab(fit, pair):
    """What names the slab's distribution in its bound hierarchy."""
    prior = fit.model.priors[pair.slab.tensor]
    spec = prior.hierarchy.latents["slab"]
    return spec.distribution, prior._arguments.get("slab", ()), torch.empty(0)


def test_with_all_the_data_log_p_is_the_log_joint(gaussian, digits):
    tree = to_arviz(gaussian, draws=3, data=digits["train"])
    x, y = digits["train"]
    draws = gaussian.draws(3)
    network = gaussian.model.network.eval()
    for number in range(3):
        plain = bp.lenet_300_100(64, 10, hidden=(12, 8))
        plain.load_state_dict(network.state_dict())
        for layer in ("fc1", "fc2", "fc3"):
            getattr(plain, layer).weight.data = draws[f"{layer}.weight"][number]
        with torch.no_grad():
            expected = -float(functional.cross_entropy(plain(x), y, reduction="sum"))
        row = tree["sample_stats"].isel(sample=number)
        assert float(row["log_likelihood_sum"]) == pytest.approx(expected, rel=1e-5)
        assert float(row["log_p"]) == pytest.approx(expected + float(row["log_prior"]), rel=1e-6)


def test_a_part_of_the_data_is_refused(gaussian, digits):
    x, y = digits["train"]
    with pytest.raises(ValueError, match="data= has 10 rows, but the fit had 300"):
        to_arviz(gaussian, draws=2, data=(x[:10], y[:10]))


def test_one_point_among_the_sites_leaves_the_densities_out(make_fit):
    fit = make_fit({"fc3.weight": bp.Horseshoe()}, {"tau": "delta"}, epochs=1)
    tree = to_arviz(fit, draws=3)
    assert "sample_stats" not in tree.children
    assert tree["posterior"].sizes["sample"] == 3


# ------------------------------------------------------------------------------------------- the other groups


def test_training_is_the_pruning_trace_of_all_restarts(spike, trees):
    training = trees["spike"]["training"].to_dataset()
    xr.testing.assert_equal(training, spike.trace)
    assert training.sizes["restart"] == 2


def test_inclusion_holds_the_probabilities_and_their_kind(spike, horseshoe, trees):
    for name, fit, kind in (("spike", spike, "atom"), ("horseshoe", horseshoe, "shrinkage")):
        found, expected = trees[name]["inclusion"].to_dataset(), fit.inclusion_probabilities()
        xr.testing.assert_equal(found, expected)
        assert {found[tensor].attrs["kind"] for tensor in found.data_vars} == {kind}


def test_attributes_say_how_the_fit_was_made(spike, trees):
    attrs = trees["spike"].attrs
    assert attrs["inference_library"] == "bayesprune"
    settings = json.loads(attrs["settings"])
    assert settings["epochs"] == 6 and settings["kl_weight"] == spike.settings["kl_weight"] and settings["seed"] == 3
    assert json.loads(attrs["guide"]) == spike.guide.family_of


@pytest.mark.parametrize("name", ["gaussian", "horseshoe", "halo", "spike"])
def test_a_tree_survives_netcdf(name, trees, tmp_path):
    trees[name].to_netcdf(tmp_path / "fit.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "fit.nc", engine="h5netcdf") as back:
        assert {node.path for node in back.subtree} == {node.path for node in trees[name].subtree}
        for node in trees[name].subtree:
            written, read = node.to_dataset(inherit=False).copy(), back[node.path].to_dataset(inherit=False).load()
            for one in (written, read):  # ArviZ 1's own attribute is a list, which the file makes a string
                one.attrs.pop("sample_dims", None)
            xr.testing.assert_identical(written, read)


def test_arviz_draws_a_tree_that_was_read_from_a_file(trees, tmp_path):
    trees["spike"].to_netcdf(tmp_path / "fit.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "fit.nc", engine="h5netcdf") as back:
        drawn = arviz().plot_dist(back, var_names=["fc1.weight.rms"], sample_dims="sample")
    drawn.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_names_with_slashes_and_clashing_names_are_told_apart(make_fit, tmp_path):
    import pyro.distributions as dist

    network = nn.Sequential()
    network.add_module("in/put", nn.Linear(64, 10))
    own = bp.Hierarchy(
        rms=bp.Latent(dist.HalfNormal(1.0), "layer"), weight=lambda rms: dist.Normal(0.0, rms), included=None
    )
    fit = make_fit({"in/put.weight": own}, network=network, epochs=1)
    tree = to_arviz(fit, draws=4, weights="*")
    posterior = tree["posterior"]
    draws = fit.draws(4)
    np.testing.assert_array_equal(posterior["in_put.weight.rms"], draws["in/put.weight.rms"])  # the latent
    np.testing.assert_allclose(
        posterior["in_put.weight.rms_"], draws["in/put.weight"].square().mean(dim=(1, 2)).sqrt(), rtol=1e-6
    )
    assert posterior["in_put.weight"].dims == ("sample", "in_put.weight.output", "in_put.weight.input")
    assert "declares no inclusion event" in tree.attrs["no_inclusion"]
    tree.to_netcdf(tmp_path / "fit.nc", engine="h5netcdf")


def test_arviz_summarises_the_samples(trees):
    names = ["fc1.weight.rms", "fc1.weight.included"]
    table = arviz().summary(trees["spike"], var_names=names, sample_dims="sample", kind="stats")
    posterior = trees["spike"]["posterior"]
    assert list(table.index) == names
    assert float(table.loc[names[1], "mean"]) == pytest.approx(float(posterior[names[1]].mean()), abs=0.01)
    assert "r_hat" not in table.columns


def test_no_r_hat_is_computed_from_draws(spike, monkeypatch):
    def refuse(*_args, **_how):
        raise AssertionError("R-hat of guide draws")

    for name in ("rhat", "ess"):
        monkeypatch.setattr(arviz(), name, refuse)
    to_arviz(spike, draws=3)
    with pytest.raises(AssertionError, match="R-hat of guide draws"):  # control
        arviz().rhat(np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"restart": 2}, "there is no restart 2: this fit has 2, counted from 0"),
        ({"restart": -1}, "there is no restart -1"),
        ({"weights": "conv*"}, "weights='conv\\*' matches no tensor with a prior: there are fc1.weight"),
        ({"draws": 0}, "n must be at least 1"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(how, sentence, spike):
    with pytest.raises(ValueError, match=sentence):
        to_arviz(spike, **how)
