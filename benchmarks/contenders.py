"""Who takes part in the comparison of step costs: networks, models, and one step of each path on them.

Every step is one update by one minibatch, and ends by reading its loss as a number, as a loop that logs does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.training.optimizers import make_optimizer
from bayesprune.models.networks.lenet import lenet_5, lenet_300_100
from bayesprune.models.networks.resnet import resnet_20
from benchmarks.flat_network import FlatNetwork, Setup, is_layer_weight
from benchmarks.hand_written import LocalReparameterisation, Loop, PerTensor
from benchmarks.hand_written_halo import FlatHalo
from benchmarks.hand_written_horseshoe import FlatHorseshoe
from benchmarks.hand_written_normal import FlatNormal
from benchmarks.hand_written_spike_and_slab import FlatSpikeAndSlab
from benchmarks.peers import INSTALL, PEERS, Step

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet-300-100": (lenet_300_100, (784,)),
    "lenet-5": (lenet_5, (1, 28, 28)),
    "resnet-20": (resnet_20, (3, 32, 32)),
}
"""How to build a network and the shape of one input, by name."""

LOOPS: dict[str, Callable[[nn.Module, Setup], FlatNetwork]] = {
    "normal": FlatNormal,
    "halo": FlatHalo,
    "horseshoe": FlatHorseshoe,
    "spike-and-slab": FlatSpikeAndSlab,
}
"""The flat loop of every model."""

_GUIDES = {"normal": "meanfield", "halo": "map", "horseshoe": "meanfield", "spike-and-slab": "paired"}


@dataclass
class Case:
    """A network with a model on it, and a minibatch.

    Attributes:
        network: The network, on the device.
        model: One of `LOOPS`.
        x: Inputs, `(batch, ...)`.
        y: Labels, `(batch,)`.
        name: Of the network, if it is one of `NETWORKS`.
        setup: Sizes and rates of the loops.
    """

    network: nn.Module
    model: str
    x: Tensor
    y: Tensor
    name: str = ""
    setup: Setup = field(default_factory=lambda: Setup(scale=0.1 * math.sqrt(2.0 / 784)))

    @property
    def weights(self) -> int:
        """Number of parameters of the network."""
        return sum(p.numel() for p in self.network.parameters())


def make_case(name: str, model: str, batch: int = 128, device: str = "cpu") -> Case:
    """A case on one of `NETWORKS` with random data."""
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    x, y = torch.rand(batch, *shape), torch.randint(10, (batch,))
    return Case(build().to(device), model, x.to(device), y.to(device), name)


def make_multilayer(weights: int, model: str, batch: int = 128, device: str = "cpu") -> Case:
    """A case on a network 784-h-h-10 with the h that comes nearest to so many parameters."""
    torch.manual_seed(0)
    width = max(1, round(-398.0 + math.sqrt(398.0**2 + weights - 10)))  # h^2 + 796 h + 10 = weights
    x, y = torch.rand(batch, 784), torch.randint(10, (batch,))
    with torch.device(device):
        network = lenet_300_100(784, 10, (width, width))
    return Case(network, model, x.to(device), y.to(device))


def steps_of(case: Case, paths: Iterable[str]) -> tuple[dict[str, Step], dict[str, str]]:
    """Steps by name, and why others are left out.

    Args:
        case: The case.
        paths: Of ``"sgd"``, ``"hand-written"``, ``"bayesprune"``, ``"fused"``, ``"peers"``.

    Returns:
        Functions that make one step each; names of the hand-written ones begin with ``"hand-written"``. And the
        reasons by name.

    Raises:
        ValueError: If a path is unknown.
    """
    steps: dict[str, Step] = {}
    absent: dict[str, str] = {}
    for path in paths:
        if path == "sgd":
            steps["SGD"] = sgd_step(case)
        elif path == "hand-written":
            steps |= {f"hand-written: {name}": step for name, step in hand_written_steps(case).items()}
        elif path == "bayesprune":
            steps["bayesprune"] = bayesprune_step(case)
        elif path == "fused":
            _try("bayesprune fused", lambda: fused_step(case), steps, absent)
        elif path == "peers":
            for name, make in PEERS.items() if case.model == "normal" else ():
                _try(name, lambda make=make: make(case.network, case.setup, case.x, case.y), steps, absent)
        else:
            raise ValueError(f"the path {path!r} is unknown: expected sgd, hand-written, bayesprune, fused or peers")
    return steps, absent


def _try(name: str, make: Callable[[], Step], steps: dict[str, Step], absent: dict[str, str]) -> None:
    """Adds a step that may not be there; one that is there and does not run on this case says why."""
    try:
        made = make()
        made()
    except ImportError as problem:
        absent[name] = f"not installed: {INSTALL[name]}" if name in INSTALL else f"not available: {problem}"
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as problem:
        absent[name] = f"does not run here: {type(problem).__name__}: {problem}".splitlines()[0]
    else:
        steps[name] = made


def sgd_step(case: Case) -> Step:
    """Plain training: no prior, cross entropy, SGD with momentum, fused."""
    network = copy.deepcopy(case.network).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(network(case.x), case.y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return step


def hand_written_steps(case: Case) -> dict[str, Step]:
    """The hand-written loops of a case: the flat one, and those that are for LeNet-300-100 only."""
    loops: dict[str, Loop] = {"flat": LOOPS[case.model](case.network, case.setup)}
    if case.model == "normal" and case.name == "lenet-300-100":
        loops["per tensor"] = PerTensor(case.setup, case.x.device)
        loops["local reparameterisation"] = LocalReparameterisation(case.setup, case.x.device)
    return {name: lambda loop=loop: loop.step(case.x, case.y).item() for name, loop in loops.items()}  # type: ignore[misc]


def make_objective(case: Case) -> Objective:
    """The package's model and guide of a case."""
    ready = {"halo": bp.HALO, "horseshoe": bp.Horseshoe, "spike-and-slab": bp.SpikeAndSlab}
    if case.model == "normal":
        priors = {"*": bp.Gaussian(case.setup.prior_sd)}
    else:
        chosen = is_layer_weight(case.network)
        priors = {name: ready[case.model]() for name, _ in case.network.named_parameters() if chosen(name)}
    model = bp.BayesianNetwork(case.network, priors, data_size=case.setup.data_size)
    as_by_hand = Gradient(local_reparameterisation=False)  # the loops draw weights
    return Objective(model, Guide(model, _GUIDES[case.model]), as_by_hand).train()


def bayesprune_step(case: Case) -> Step:
    """A step of the plain execution as `fit` makes it."""
    objective = make_objective(case)
    optimizer = make_optimizer("adam", objective, case.setup.learning_rate)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        terms = objective.terms(case.x, case.y)
        (terms.loss / case.setup.data_size).backward()
        optimizer.step()
        return float(terms.kl) - float(terms.log_likelihood)

    return step


def fused_step(case: Case) -> Step:
    """A step of the fused execution, compiled; the first call compiles.

    Raises:
        ImportError: If this version has no fused execution.
    """
    from bayesprune.inference.execution.fused import FusedStep
    from bayesprune.inference.execution.objective_graph import trace

    objective = make_objective(case)
    optimizer = make_optimizer("adam", objective, case.setup.learning_rate)
    step = FusedStep(objective, optimizer, trace(objective, case.x, case.y), compiled=True)
    return lambda: float(step(case.x, case.y, 1.0).loss)
