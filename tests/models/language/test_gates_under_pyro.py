"""Gates where Pyro moves real numbers or enumerates: one sentence of our own, and no false alarm."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import HMC, MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_median, init_to_sample
from pyro.optim import Adam
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.models.language.gate_support import GatesNotDrawnError
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.inclusion import exact_zero
from bayesprune.models.language.latent import Latent

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def one_gate(per="layer"):
    return Hierarchy(
        z=Latent(dist.Bernoulli(0.5), per=per),
        s=dist.Normal(0.0, 1.0),
        weight=lambda z, s: z * s,
        included=exact_zero("z", slab="s"),
    )


def model(prior=None, gates=None, fixed=True):
    torch.manual_seed(0)
    pyro.clear_param_store()
    network = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))
    priors = {} if prior is None else {"*.weight": prior}
    bnn = bp.BayesianNetwork(network, priors, data_size=20, gates=gates, example_input=X[:1])
    for parameter in bnn.parameters() if fixed else ():
        parameter.requires_grad_(False)
    return bnn


GATED = {
    "a weight": lambda: model(bp.SpikeAndSlab(0.3)),
    "an output": lambda: model(bp.SpikeAndSlab(0.3, level="output")),
    "a layer": lambda: model(one_gate()),
    "a network": lambda: model(one_gate("network")),
    "a unit": lambda: model(gates=bp.UnitGates()),
}
KERNELS = {
    "NUTS": lambda bnn: NUTS(bnn, max_tree_depth=2),
    "HMC": lambda bnn: HMC(bnn, step_size=0.01, num_steps=2),
    "NUTS from a sample": lambda bnn: NUTS(bnn, max_tree_depth=2, init_strategy=init_to_sample),
    "NUTS from medians": lambda bnn: NUTS(bnn, max_tree_depth=2, init_strategy=init_to_median),
}


def drawn(kernel):
    mcmc = MCMC(kernel, num_samples=2, warmup_steps=2, disable_progbar=True)
    mcmc.run(X, Y)
    return mcmc.get_samples()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("what", GATED)
def test_gates_under_continuous_inference_are_refused_in_one_sentence(what, kernel):
    with pytest.raises(ValueError) as refusal:
        drawn(KERNELS[kernel](GATED[what]()))
    assert str(refusal.value).startswith("NUTS, HMC and Pyro's automatic guides move real numbers")
    assert "bp.ContinuousSpikeAndSlab" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("what", GATED)
def test_automatic_guides_of_gates_are_refused_in_the_same_sentence(what):
    bnn = GATED[what]()
    with pytest.raises(GatesNotDrawnError):
        AutoNormal(bnn)(X, Y)


@pytest.mark.parametrize("prior", [bp.ContinuousSpikeAndSlab, bp.Horseshoe])
def test_what_the_sentence_recommends_is_drawn_by_nuts(prior):
    assert all(torch.isfinite(value).all() for value in drawn(NUTS(model(prior()), max_tree_depth=2)).values())


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
@pytest.mark.parametrize("what", GATED)
def test_svi_predictions_and_traces_take_gates(what):
    bnn = GATED[what]()
    guide = Guide(bnn, "meanfield")
    for loss in (Trace_ELBO(), TraceEnum_ELBO()):
        assert SVI(bnn, guide, Adam({"lr": 1e-3}), loss).step(X, Y) > 0
    assert Predictive(bnn, guide=guide, num_samples=3)(X)["obs"].shape == (3, 20)
    assert Predictive(bnn, num_samples=3)(X)["obs"].shape == (3, 20)
    assert poutine.trace(bnn).get_trace(X, Y).log_prob_sum().isfinite()


def test_an_automatic_guide_of_all_but_the_gates_is_taken():
    bnn = model(bp.SpikeAndSlab(0.3))
    hidden = poutine.block(bnn, hide_fn=lambda site: site["name"].endswith(".z"))
    AutoNormal(hidden)(X, Y)


def test_a_gate_of_a_layer_is_enumerated_one_value_after_the_other_in_a_guide():
    bnn = bp.BayesianNetwork(nn.Linear(3, 2), {"weight": one_gate()}, data_size=20)
    slab, q = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0.7, 0.3])

    def guide(x, y):
        pyro.sample("weight.z", dist.Bernoulli(q[1]), infer={"enumerate": "sequential"})
        pyro.sample("weight.s", Iid(dist.Delta(slab), (2, 3)))

    found = TraceEnum_ELBO(max_plate_nesting=1).loss(bnn, guide, X, Y)
    joints = []
    for z in (0.0, 1.0):
        held = poutine.condition(bnn, data={"weight.z": torch.tensor(z), "weight.s": slab})
        joints.append(float(poutine.trace(held).get_trace(X, Y).log_prob_sum().detach()))
    expected = -float((q * (torch.tensor(joints) - q.log())).sum())
    assert found == pytest.approx(expected, rel=1e-4)
    assert found != pytest.approx(-joints[1], rel=1e-2)  # the control: one value


def test_the_support_of_gates_is_that_of_independent_bernoullis():
    own, plain = Iid(dist.Bernoulli(0.5), (2, 3)).support, dist.Bernoulli(torch.full((2, 3), 0.5)).to_event(2).support
    assert own.is_discrete and own.event_dim == plain.event_dim == 2
    values = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.5]])
    assert bool(own.check(values)) is bool(plain.check(values)) is False
    assert bool(own.check(values.round())) is True
