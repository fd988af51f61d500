"""The hand-written loops are the package's objective: same loss and same gradients at equal noise, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.networks.lenet import lenet_5, lenet_300_100
from bayesprune.models.networks.resnet import resnet_20
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from benchmarks.flat_network import FlatNetwork, Setup, is_layer_weight
from benchmarks.hand_written_halo import PSI, FlatHalo
from benchmarks.hand_written_horseshoe import FlatHorseshoe
from benchmarks.hand_written_normal import FlatNormal
from benchmarks.hand_written_spike_and_slab import FlatSpikeAndSlab

NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet-300-100": (lambda: lenet_300_100(20, 4, (7, 6)), (20,)),
    "lenet-5": (lambda: lenet_5(1, 16, 4), (1, 16, 16)),
    "resnet-20": (lambda: resnet_20(1, 4), (1, 8, 8)),
}
DATA_SIZE, BATCH, CLASSES = 50, 6, 4
WEIGHTS_DRAWN = Gradient(local_reparameterisation=False)
"""As the loops draw them."""
EXACT, VISIBLE = 1e-12, 1e-6


@dataclass
class Pair:
    """A loop and the package's objective at the same place, with the noise of one evaluation.

    Attributes:
        loop: The hand-written loop.
        objective: The package's.
        noise: What `torch.randn_like` has to give in an evaluation of the objective, in order.
        match: Parameters of the guide beside gradients of the loop in the same order, flat.
    """

    loop: FlatNetwork
    objective: Objective
    noise: list[Tensor]
    match: Callable[[], list[tuple[Tensor, Tensor]]]


def family(guide: Guide, support: str) -> nn.Module:
    return next(each for each in guide.families if each.sites[0].support == support)


def scatter(values: Tensor) -> None:
    """Moves a parameter off its start, so that no two entries are alike."""
    with torch.no_grad():
        values.add_(0.3 * torch.randn_like(values))


def normal(network: nn.Module, wrong: float) -> Pair:
    model = BayesianNetwork(network, {"*": Gaussian(0.1)}, data_size=DATA_SIZE)
    guide, loop = Guide(model, "meanfield"), FlatNormal(network, Setup(data_size=DATA_SIZE, prior_sd=0.1 * wrong))
    (q,) = guide.families
    move([q.location, q.log_scale], [loop.loc, loop.log_scale])
    loop.draw()
    match = lambda: [(q.location, loop.loc), (q.log_scale, loop.log_scale)]  # noqa: E731
    return Pair(loop, Objective(model, guide, WEIGHTS_DRAWN), [loop.noise.clone()], match)


def halo(network: nn.Module, wrong: float) -> Pair:
    kappa = None if wrong == 1.0 else 30.0 * wrong
    prior = HALO() if kappa is None else HALO(kappa=30.0)
    model = BayesianNetwork(network, on_layers(network, prior), data_size=DATA_SIZE)
    guide, loop = Guide(model, "map"), FlatHalo(network, Setup(data_size=DATA_SIZE), kappa)
    w, lam = family(guide, "real"), family(guide, "positive")
    move([w.location, lam.location], [loop.loc, loop.log_u])
    with torch.no_grad():
        loop.log_u.add_(torch.tensor(PSI).double().log())
    return Pair(
        loop, Objective(model, guide, WEIGHTS_DRAWN), [], lambda: [(w.location, loop.loc), (lam.location, loop.log_u)]
    )


def horseshoe(network: nn.Module, wrong: float) -> Pair:
    model = BayesianNetwork(network, on_layers(network, Horseshoe(expected_density=0.1)), data_size=DATA_SIZE)
    guide = Guide(model, "meanfield")
    loop = FlatHorseshoe(network, Setup(data_size=DATA_SIZE), expected_density=0.1 * wrong)
    z, scales = family(guide, "real"), family(guide, "positive")
    order = scale_order(loop)
    scatter(scales.location), scatter(scales.log_scale)  # noqa: B018
    with torch.no_grad():
        loop.loc[order], loop.log_scale[order] = scales.location, scales.log_scale
    move([z.location, z.log_scale], [loop.z_loc, loop.z_log_scale])
    loop.draw()
    match = lambda: [  # noqa: E731
        (scales.location, gathered(loop.loc, order)),
        (scales.log_scale, gathered(loop.log_scale, order)),
        (z.location, loop.z_loc),
        (z.log_scale, loop.z_log_scale),
    ]
    return Pair(loop, Objective(model, guide, WEIGHTS_DRAWN), [loop.noise[order], loop.z_noise.clone()], match)


def spike_and_slab(network: nn.Module, wrong: float) -> Pair:
    model = BayesianNetwork(network, on_layers(network, SpikeAndSlab(0.1)), data_size=DATA_SIZE)
    guide = Guide(model)
    loop = FlatSpikeAndSlab(network, Setup(data_size=DATA_SIZE), expected_density=0.1 * wrong)
    (q,) = guide.families
    move([q.location, q.log_scale, q.logit], [loop.loc, loop.log_scale, loop.logit])
    with torch.no_grad():  # gates all over the place, nearly closed and nearly open ones too
        q.logit.mul_(3.0).sub_(5.0), loop.logit.copy_(q.logit)  # noqa: B018
    loop.draw()
    gates = [part.view(shape) for part, shape in zip(loop.gate_noise.split(loop.sizes), loop.shapes, strict=True)]
    match = lambda: [(q.location, loop.loc), (q.log_scale, loop.log_scale), (q.logit, loop.logit)]  # noqa: E731
    return Pair(loop, Objective(model, guide, WEIGHTS_DRAWN), [loop.noise.clone(), *gates], match)


MODELS: Mapping[str, Callable[[nn.Module, float], Pair]] = {
    "normal": normal,
    "halo": halo,
    "horseshoe": horseshoe,
    "spike-and-slab": spike_and_slab,
}


def on_layers(network: nn.Module, prior: object) -> dict[str, object]:
    return {name: prior for name, _ in network.named_parameters() if is_layer_weight(network)(name)}


def move(guide: Sequence[Tensor], loop: Sequence[Tensor]) -> None:
    for theirs, ours in zip(guide, loop, strict=True):
        scatter(theirs)
        with torch.no_grad():
            ours.copy_(theirs)


def scale_order(loop: FlatHorseshoe) -> Tensor:
    """Where the guide's scales, tau and then lam of each tensor in turn, stand in the loop: all lam, then all tau."""
    parts = torch.arange(loop.count).split(loop.sizes)
    return torch.cat([part for i, lam in enumerate(parts) for part in (torch.tensor([loop.count + i]), lam)])


def gathered(parameter: Tensor, order: Tensor) -> Tensor:
    made = parameter.detach()[order].requires_grad_()
    made.grad = parameter.grad[order]
    return made


def built(model: str, network: str, wrong: float = 1.0) -> tuple[Pair, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    build, shape = NETWORKS[network]
    pair = MODELS[model](build().double(), wrong)
    return pair, (torch.randn(BATCH, *shape, dtype=torch.float64), torch.randint(CLASSES, (BATCH,)))


def differences(pair: Pair, batch: tuple[Tensor, Tensor]) -> list[float]:
    """Relative differences of the loss, of each gradient of the guide and of that of the point estimates."""
    loss = pair.loop.evaluate(*batch)
    left = list(pair.noise)
    with mock.patch.object(torch, "randn_like", side_effect=lambda like: left.pop(0).view(like.shape)):
        wanted = pair.objective(*batch)
        wanted.backward()
    assert not left
    found = [float((loss - wanted.detach()).abs() / wanted.detach().abs())]
    points = [p.grad.flatten() for p in pair.objective.model.parameters() if p.requires_grad]
    pairs = [(theirs.grad, ours.grad) for theirs, ours in pair.match()]
    if points:
        pairs.append((torch.cat(points), pair.loop.points.grad))
    assert sum(len(ours) for _, ours in pairs) == sum(p.numel() for p in pair.objective.parameters() if p.requires_grad)
    return found + [float((ours - theirs).abs().max() / theirs.abs().max()) for theirs, ours in pairs]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("model", MODELS)
def test_a_hand_written_loop_has_the_loss_and_the_gradients_of_the_objective(model: str, network: str) -> None:
    assert max(differences(*built(model, network))) < EXACT


@pytest.mark.parametrize("model", MODELS)
def test_another_prior_would_be_seen(model: str) -> None:
    found = differences(*built(model, "lenet-300-100", wrong=1.01))
    assert found[0] > VISIBLE
    assert max(found[1:]) > VISIBLE


@pytest.mark.parametrize("model", [name for name in MODELS if name != "halo"])
def test_other_noise_would_be_seen_in_the_loss_and_in_every_gradient(model: str) -> None:
    pair, batch = built(model, "lenet-5")
    pair.noise = [-each for each in pair.noise]
    assert min(differences(pair, batch)) > VISIBLE


@pytest.mark.parametrize("model", MODELS)
def test_a_step_moves_what_the_network_reads_and_lowers_the_loss(model: str) -> None:
    torch.manual_seed(0)
    build, shape = NETWORKS["lenet-5"]
    network = build()
    loops = {"normal": FlatNormal, "halo": FlatHalo, "horseshoe": FlatHorseshoe, "spike-and-slab": FlatSpikeAndSlab}
    loop = loops[model](network, Setup(data_size=DATA_SIZE))
    x, y = torch.randn(32, *shape), torch.randint(CLASSES, (32,))
    before = [p.detach().clone() for p in loop.network.parameters()]
    losses = [float(loop.step(x, y)) for _ in range(60)]
    assert sum(losses[-5:]) < sum(losses[:5])
    loop.evaluate(x, y)
    assert all(not torch.equal(p, old) for p, old in zip(loop.network.parameters(), before, strict=True))
    assert torch.equal(torch.cat([p.flatten() for p in loop.tensors]), loop.weights)
    assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True)), "it is a copy"


def same(a: FlatNormal | FlatHalo, b: FlatNormal | FlatHalo, batch: tuple[Tensor, Tensor]) -> float:
    """Largest relative difference of loss and gradients at equal noise."""
    if isinstance(a, FlatNormal):
        a.draw()
        b.noise.copy_(a.noise)
    losses = a.evaluate(*batch), b.evaluate(*batch)
    gradients = [(p.grad, q.grad) for p, q in zip(leaves(a), leaves(b), strict=True)]
    return max(float((p - q).abs().max() / p.abs().max()) for p, q in [losses, *gradients])


def leaves(loop: FlatNormal | FlatHalo) -> list[Tensor]:
    return [loop.loc, loop.log_scale] if isinstance(loop, FlatNormal) else [loop.loc, loop.log_u, loop.points]


def test_gathered_gradients_are_those_of_the_pieces() -> None:
    torch.manual_seed(0)
    network = resnet_20(1, 4).double()
    batch = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.randint(CLASSES, (4,))
    loop = FlatNormal(network)
    assert loop.gathered is not None and len(loop.moved) == 1
    with mock.patch("benchmarks.flat_network.MANY_TENSORS", 1000):
        pieces = FlatNormal(network)
    assert pieces.gathered is None and len(pieces.moved) == len(pieces.shapes)
    assert same(loop, pieces, batch) < EXACT
    with torch.no_grad():
        pieces.loc[100] += 1e-3
    assert same(loop, pieces, batch) > VISIBLE


@pytest.mark.parametrize("build", [FlatNormal, FlatHalo])
def test_a_large_network_in_chunks_has_the_loss_and_the_gradients_of_the_whole(build: type) -> None:
    torch.manual_seed(0)
    network = lenet_300_100(20, 4, (70, 6)).double()
    batch = torch.randn(BATCH, 20, dtype=torch.float64), torch.randint(CLASSES, (BATCH,))
    whole = build(network)
    with mock.patch.multiple("benchmarks.flat_network", LARGE=1000, CHUNK=64):
        chunked = build(network)
        assert len(chunked.moved) > len(whole.moved) == len(whole.shapes)
        assert same(whole, chunked, batch) < EXACT
        with torch.no_grad():
            chunked.loc[100] += 1e-3
        assert same(whole, chunked, batch) > VISIBLE
