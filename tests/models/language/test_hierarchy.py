"""The prior language: what is refused at declaration, printing, fingerprints."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from bayesprune.models.language.hierarchy import Hierarchy, describe
from bayesprune.models.language.inclusion import exact_zero, relative_threshold, shrinkage_below
from bayesprune.models.language.latent import Latent


def horseshoe(tau0=1.0, per="weight", tau_per="layer", threshold=0.5):
    return Hierarchy(
        tau=Latent(lambda: dist.HalfCauchy(tau0), per=tau_per),
        lam=Latent(dist.HalfCauchy(1.0), per=per),
        z=Latent(dist.Normal(0.0, 1.0)),
        weight=lambda tau, lam, z: tau * lam * z,
        included=shrinkage_below(threshold),
    )


# -- refused at declaration ----------------------------------------------------------------------------------


def test_a_hierarchy_without_a_weight_is_refused():
    with pytest.raises(ValueError, match="declares no weight"):
        Hierarchy(lam=dist.HalfCauchy(1.0))


def test_an_unknown_parent_is_named_with_the_latents_there_are():
    with pytest.raises(ValueError, match="weight depends on 'lamda'.*lam"):
        Hierarchy(lam=dist.HalfCauchy(1.0), weight=lambda lamda: dist.Normal(0.0, lamda))
    with pytest.raises(ValueError, match="lam depends on 'tau'.*not declared"):
        Hierarchy(lam=lambda tau: dist.HalfCauchy(tau), weight=lambda lam: dist.Normal(0.0, lam))
    with pytest.raises(ValueError, match="factor depends on 'mu'"):
        Hierarchy(weight=dist.Normal(0.0, 1.0), factor=lambda mu: mu)


def test_a_latent_may_not_depend_on_the_weight():
    with pytest.raises(ValueError, match="lam depends on 'weight'"):
        Hierarchy(lam=lambda weight: dist.HalfCauchy(weight.abs()), weight=lambda lam: dist.Normal(0.0, lam))


def test_a_cycle_is_named():
    with pytest.raises(ValueError, match="cycle: a -> b -> a"):
        Hierarchy(
            a=lambda b: dist.Gamma(2.0, b.exp()),
            b=lambda a: dist.Normal(0.0, a),
            weight=lambda a: dist.Normal(0.0, a),
        )
    with pytest.raises(ValueError, match="cycle: a -> a"):
        Hierarchy(a=lambda a: dist.Gamma(2.0, a), weight=lambda a: dist.Normal(0.0, a))


@pytest.mark.parametrize("per", ["weight", "output", "input", "layer", "network"])
def test_a_normal_used_as_a_scale_is_refused(per):
    with pytest.raises(ValueError, match="wrong support.*scale"):
        Hierarchy(
            lam=Latent(dist.Normal(0.0, 1.0), per=per),
            weight=lambda lam: dist.Normal(0.0, lam),
        )


def test_a_negative_constant_as_a_scale_is_refused():
    with pytest.raises(ValueError, match="wrong support"):
        Hierarchy(weight=lambda: dist.Normal(0.0, -1.0))
    with pytest.raises(ValueError, match="wrong support"):
        Hierarchy(lam=dist.HalfCauchy(1.0), weight=lambda lam: dist.Bernoulli(lam + 1.0))


def test_a_latent_coarser_than_its_parent_is_refused():
    with pytest.raises(ValueError, match="tau has entries of shape.*does not broadcast.*finest parent"):
        Hierarchy(
            lam=Latent(dist.HalfCauchy(1.0), per="weight"),
            tau=Latent(lambda lam: dist.HalfCauchy(lam), per="layer"),
            weight=lambda tau: dist.Normal(0.0, tau),
        )
    with pytest.raises(ValueError, match="for the whole network but depends on lam"):
        Hierarchy(
            lam=Latent(dist.HalfCauchy(1.0), per="layer"),
            tau=Latent(lambda lam: dist.HalfCauchy(lam), per="network"),
            weight=lambda tau: dist.Normal(0.0, tau),
        )


def test_weights_of_a_shape_that_does_not_fit_are_refused():
    with pytest.raises(ValueError):
        Hierarchy(z=dist.Normal(0.0, 1.0), weight=lambda z: z.flatten()[:7])
    with pytest.raises(ValueError):
        Hierarchy(
            u=Latent(dist.Normal(0.0, 1.0), dims={"output": None, "rank": 2}),
            v=Latent(dist.Normal(0.0, 1.0), dims={"rank": 3, "input": None}),
            weight=lambda u, v: u @ v,
        )


@pytest.mark.parametrize("name", ["size", "fan_in", "data_size"])
def test_reserved_names_are_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' is a reserved argument"):
        Hierarchy(**{name: dist.HalfCauchy(1.0)}, weight=dist.Normal(0.0, 1.0))


def test_a_factor_that_is_not_a_callable_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="factor="):
        Hierarchy(factor=Latent(dist.HalfCauchy(1.0)), weight=dist.Normal(0.0, 1.0))


def test_multivariate_distributions_are_refused():
    with pytest.raises(ValueError, match="Dirichlet has event shape"):
        Hierarchy(p=dist.Dirichlet(torch.ones(3)), weight=dist.Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="p must be univariate"):
        Hierarchy(p=lambda: dist.Dirichlet(torch.ones(3)), weight=dist.Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="weight must be univariate"):
        Hierarchy(weight=lambda: dist.Normal(torch.zeros(6, 5), 1.0).to_event(1))


def test_a_latent_whose_callable_returns_neither_a_distribution_nor_a_tensor_is_refused():
    with pytest.raises(ValueError, match="lam must return a Pyro distribution, or a tensor.*returned list"):
        Hierarchy(lam=lambda: [torch.ones(())], weight=lambda lam: dist.Normal(0.0, lam))


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({"factor": None}, "'factor'. has no size.*'rank'"),
        ({"rank": 0}, "at least 1"),
        ({"output": None, "rank": -2}, "at least 1"),
    ],
)
def test_bad_dims_are_refused(dims, message):
    with pytest.raises(ValueError, match=message):
        Latent(dist.Normal(0.0, 1.0), dims=dims)


def test_what_is_no_latent_is_refused():
    for value in (1.0, "Normal", None):
        with pytest.raises(ValueError):
            Latent(value)
        with pytest.raises(ValueError):
            Hierarchy(lam=value, weight=dist.Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="weight= takes"):
        Hierarchy(weight=1.0)
    with pytest.raises(ValueError, match="level 'row' is unknown"):
        Latent(dist.Normal(0.0, 1.0), per="row")


def test_an_event_that_names_no_latent_is_refused():
    with pytest.raises(ValueError, match="gate 'g'.*not a latent"):
        Hierarchy(z=dist.Bernoulli(0.5), weight=lambda z: z * 1.0, included=exact_zero("g"))
    with pytest.raises(ValueError, match="slab 's'.*not a latent"):
        Hierarchy(z=dist.Bernoulli(0.5), weight=lambda z: z * 1.0, included=exact_zero("z", slab="s"))


# -- what is allowed -----------------------------------------------------------------------------------------


def test_a_bare_distribution_is_one_entry_a_weight():
    one = Hierarchy(lam=dist.HalfCauchy(1.0), weight=lambda lam: dist.Normal(0.0, lam))
    assert one.latents["lam"].per == "weight" and one.weight_is_latent


def test_latents_are_ordered_parents_first_whatever_the_order_of_writing():
    one = Hierarchy(
        weight=lambda z: z,
        z=lambda lam, tau: dist.Normal(0.0, lam * tau),
        lam=lambda tau: dist.HalfCauchy(tau),
        tau=Latent(dist.HalfCauchy(1.0), per="layer"),
    )
    assert list(one.latents) == ["tau", "lam", "z"] and not one.weight_is_latent


def test_arguments_with_defaults_are_not_parents():
    scale = 2.0
    one = Hierarchy(lam=dist.HalfCauchy(1.0), weight=lambda lam, scale=scale: dist.Normal(0.0, lam * scale))
    assert one.parents == {"weight": ("lam",)}


def test_declaring_leaves_the_random_state_as_it_was():
    before = torch.get_rng_state()
    horseshoe().fingerprint()
    assert torch.equal(before, torch.get_rng_state())


# -- printing and fingerprints -------------------------------------------------------------------------------


def test_a_hierarchy_prints_its_latents_levels_formula_and_event():
    text = str(horseshoe())
    assert "tau" in text and "per layer" in text
    assert "lam      ~ HalfCauchy(scale=1), per weight" in text
    assert "z        ~ Normal(loc=0, scale=1), per weight" in text
    assert "weight   = tau * lam * z" in text
    assert "shrinkage factor < 0.5" in text
    latent = str(Hierarchy(lam=dist.HalfCauchy(1.0), weight=lambda lam: dist.Normal(0.0, lam)))
    assert "weight   ~ dist.Normal(0.0, lam)" in latent and "no event declared" in latent


def test_a_callable_without_source_prints_its_arguments():
    made = eval("lambda lam: lam * 2")
    assert describe(made) == "f(lam)"


def test_two_lambdas_that_cannot_be_told_apart_print_their_arguments_only():
    pair = (lambda lam: lam + 1, lambda lam: lam + 2)  # fmt: skip
    assert describe(pair[0]) == "f(lam)"


def test_the_fingerprint_is_the_same_for_the_same_declaration():
    assert horseshoe().fingerprint() == horseshoe().fingerprint()
    assert len(horseshoe().fingerprint()) == 16


def test_the_fingerprint_changes_with_a_constant_a_level_an_event_and_a_formula():
    def declared(**changes):
        return horseshoe(**changes).fingerprint()

    formula = Hierarchy(
        tau=Latent(lambda: dist.HalfCauchy(1.0), per="layer"),
        lam=Latent(dist.HalfCauchy(1.0)),
        z=Latent(dist.Normal(0.0, 1.0)),
        weight=lambda tau, lam, z: tau * lam.sqrt() * z,
        included=shrinkage_below(0.5),
    ).fingerprint()
    found = [
        declared(),
        declared(tau0=1.001),
        declared(per="output"),
        declared(tau_per="network"),
        declared(threshold=0.4),
        formula,
    ]
    assert len(set(found)) == len(found)


def test_the_fingerprint_changes_with_the_size_of_a_block():
    def blocks(size):
        return Hierarchy(
            z=Latent(dist.Bernoulli(0.1), per="block", block=(size, size)),
            s=dist.Normal(0.0, 1.0),
            weight=lambda z, s: z * s,
            included=exact_zero("z", slab="s"),
        ).fingerprint()

    assert blocks(16) == blocks(16) != blocks(8)


def test_a_factor_changes_the_fingerprint():
    def decayed(rate):
        return Hierarchy(
            weight=dist.Laplace(0.0, 1.0), factor=lambda weight: -rate * weight.square().sum()
        ).fingerprint()

    assert decayed(0.1) == decayed(0.1) != decayed(0.2)


def test_a_latent_on_an_interval_of_its_own_has_a_fingerprint():
    def bounded(high):
        return Hierarchy(s=dist.Uniform(0.0, high), weight=lambda s: dist.Normal(0.0, 0.1 + s)).fingerprint()

    assert bounded(2.0) == bounded(2.0) != bounded(3.0)


def test_a_support_that_depends_on_a_latent_is_taken():
    one = Hierarchy(
        lam=dist.HalfCauchy(1.0),
        u=lambda lam: dist.Uniform(torch.zeros_like(lam), lam),
        weight=lambda u: dist.Normal(0.0, 1.0 + u),
        included=relative_threshold(),
    )
    assert list(one.latents) == ["lam", "u"]


def test_an_event_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"included= takes an inclusion event, such as exact_zero\(\) .*, not 'x'"):
        Hierarchy(weight=dist.Normal(0.0, 1.0), included="x")
