"""Spike and slab with learned scales: its declaration, its log joint, its knob, its refusals; and as a fit."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.notes.emptied_layers import fallen_scales
from bayesprune.inference.notes.findings import findings
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab

DOUBLE = torch.empty(0, dtype=torch.float64)
SHAPE = (4, 6)
ONE_A = {"layer": (), "input": (1, 6), "output": (4, 1)}
COUNTS = {"layer": 24, "input": 4, "output": 6}


@pytest.mark.parametrize("learned", list(ONE_A))
def test_the_log_joint_is_that_of_the_hierarchy(learned):
    declared = SpikeAndSlab(0.2, 0.7, learned_sd=learned, learned_density=learned, pseudo_gates=30.0)
    one = TensorPrior("w", declared, SHAPE, 10)
    assert one.sites["sd"].shape == one.sites["pi"].shape == ONE_A[learned]
    torch.manual_seed(0)
    z = (torch.rand(SHAPE) < 0.5).double()
    slab, pi = torch.randn(SHAPE, dtype=torch.float64), 0.1 + 0.8 * torch.rand(ONE_A[learned], dtype=torch.float64)
    sd = 0.5 + torch.rand(ONE_A[learned], dtype=torch.float64)
    weight, terms = one.evaluate({"z": z, "slab": slab, "pi": pi, "sd": sd}, DOUBLE)
    assert torch.equal(weight, z * slab)
    assert float(terms["pi"]) == pytest.approx(stats.beta(6.0, 24.0).logpdf(pi).sum(), rel=1e-9)
    assert float(terms["sd"]) == pytest.approx(stats.halfcauchy(scale=0.7).logpdf(sd).sum(), rel=1e-12)
    assert float(terms["z"]) == pytest.approx(stats.bernoulli(pi.expand(SHAPE)).logpmf(z).sum(), rel=1e-12)
    assert float(terms["slab"]) == pytest.approx(stats.norm(0, sd.expand(SHAPE)).logpdf(slab).sum(), rel=1e-12)


@pytest.mark.parametrize("learned", list(ONE_A))
def test_a_moved_knob_is_a_price_of_open_gates(learned):
    one = TensorPrior("w", SpikeAndSlab(0.2, learned_density=learned), SHAPE, 10)

    def joint(z, pi):
        terms = one.evaluate({"z": z, "slab": torch.zeros(SHAPE).double(), "pi": pi}, DOUBLE)[1]
        return float(terms["z"] + terms["pi"])

    torch.manual_seed(1)
    states = [
        ((torch.rand(SHAPE) < share).double(), torch.full(ONE_A[learned], pi, dtype=torch.float64))
        for share, pi in ((0.1, 0.05), (0.5, 0.3), (0.9, 0.8))
    ]
    before = [joint(*state) for state in states]
    one.moving["odds"].set(0.01)
    change = [
        joint(*state) - at - float(state[0].sum()) * math.log(0.01) for state, at in zip(states, before, strict=True)
    ]
    assert max(change) - min(change) < 1e-6  # the normaliser alone, whatever z and pi are
    assert abs(change[0]) > 1.0


@pytest.mark.parametrize("level", ["kernel", "output", "input", "block"])
def test_the_gates_of_a_layer_are_counted_at_every_level(level):
    one = TensorPrior("w", SpikeAndSlab(0.2, level=level, block=(3, 4), learned_density="layer"), (8, 6, 3, 3), 10)
    found = []
    one.run(lambda site, fn: found.append(fn) or fn.sample(), DOUBLE, {})
    assert float(found[0].base_dist.count) == math.prod(one.sites["z"].shape)


def test_nothing_changes_where_nothing_is_learned():
    plain = SpikeAndSlab(0.2, 0.3)
    assert plain.fingerprint() == SpikeAndSlab(0.2, 0.3, learned_sd=None).fingerprint()
    assert list(plain.latents) == ["z", "slab"]
    assert plain.fingerprint() != SpikeAndSlab(0.2, 0.3, learned_sd="layer").fingerprint()


def test_what_is_learned_starts_at_what_it_replaces_and_has_its_own_guide():
    network = torch.nn.Sequential(torch.nn.Linear(6, 4))
    for by, families in (
        (None, "lognormal logitnormal"),
        ("point", "delta delta"),
        ("normal", "lognormal logitnormal"),
    ):
        prior = SpikeAndSlab(0.2, learned_sd="input", learned_density="output", learned_by=by)
        guide = Guide(bp.BayesianNetwork(network, {"*.weight": prior}, data_size=10))
        assert " ".join(guide.family_of[f"0.weight.{name}"] for name in ("sd", "pi")) == families
        means = guide.means()
        assert torch.allclose(means["0.weight.pi"], torch.full((4, 1), 0.2))
        assert torch.allclose(means["0.weight.sd"], torch.full((1, 6), math.sqrt(2.0 / (0.2 * 6))))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"learned_sd": "weight"}, "learned_sd"),
        ({"learned_density": "network"}, "learned_density"),
        ({"learned_density": "input", "level": "output"}, "several gates"),
        ({"learned_density": "output", "level": "block"}, "several gates"),
        ({"learned_density": "layer", "pseudo_gates": 10.0}, "pseudo_gates"),
        ({"learned_density": "layer", "expected_density": 0.95, "pseudo_gates": 19.0}, "pseudo_gates"),
        ({"pseudo_gates": 100.0}, "pseudo_gates"),
        ({"learned_by": "normal"}, "learned_by"),
        ({"learned_sd": "layer", "learned_by": "mean"}, "learned_by"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        SpikeAndSlab(**arguments)


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(3)
    x = torch.randn(200, 8)
    return x, ((x[:, 0] - x[:, 1]) > 0).long()


def declared(data, **given):
    torch.manual_seed(0)
    network = bp.lenet_300_100(8, classes=2, hidden=(12,))
    return bp.BayesianNetwork(network, {"*.weight": SpikeAndSlab(**given)}, data_size=len(data[0]))


def fitted(data, rules=(), steps=300, kl_weight=None, **given):
    how = {"steps": steps, "batch_size": 100, "learning_rate": 5e-3, "kl_weight": kl_weight, "device": "cpu"}
    return bp.fit(declared(data, **given), data, rules=list(rules), **how)


@pytest.mark.parametrize("by", ["point", "normal"])
def test_a_budget_is_met_and_the_fit_comes_back_from_its_files(data, by, tmp_path):
    given = {"learned_sd": "layer", "learned_density": "input", "learned_by": by}
    fit = fitted(data, [bp.Budget(density=12)], **given)
    found = fit.inclusion_probabilities()
    assert sum(int((found[name].values > 0.5).sum()) for name in found) == 12
    knob = next(iter(fit.settings["budget"][0]["knobs"].values()))
    assert knob["end"] < knob["start"]
    fit.save(tmp_path / "fit")
    again = bp.Fit.load(tmp_path / "fit", model=declared(data, **given))
    for name, value in fit.guide.means().items():
        assert torch.equal(value, again.guide.means()[name])
    assert again.model.knobs["odds"].factor == fit.model.knobs["odds"].factor
    pruned = bp.prune(again, min_inclusion=0.5)
    assert pruned.report.sparsity == pytest.approx(1.0 - 12 / (8 * 12 + 24))


def test_the_fall_of_a_layer_with_its_scales_is_said():
    """Nothing to learn: gates, probability and slab go down together, and the fit says so."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(400, 8, generator=generator)
    noise = torch.randint(0, 2, (len(x),), generator=generator)
    lost = fitted((x, noise), steps=500, learned_sd="layer", learned_density="layer", learned_by="point", kl_weight=1.0)
    said = " ".join(findings(lost))
    start = math.sqrt(2.0 / (0.1 * 8))
    assert float(lost.guide.means()["fc1.weight.sd"]) < 0.25 * start
    assert "fc1.weight.sd to" in said and "learn them by 'normal'" in said
    assert not fallen_scales(fitted((x, noise), steps=20, kl_weight=1.0), ["fc1.weight"])  # nothing is learned
    assert not fallen_scales(lost, ["fc9.weight"])
