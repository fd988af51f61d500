"""Edge gates: a Bernoulli gate an edge, as probable as in a random graph, so that structure has a posterior."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.utils import probs_to_logits

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import exact_zero
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready
from bayesprune.models.structure.edge_places import edge_places
from bayesprune.models.structure.edge_probabilities import EDGE_GRAPHS, ring_layer
from bayesprune.models.structure.graph_prior import GraphPrior

__all__ = ["EdgeGates", "edge_gates"]

_MOST_GATES, _MOST_EDGES = 8, 10**6
_SELDOM = 0.01  # of an edge that is not on the ring, whatever the inputs are that it has to be one of


@ready("edge-gates", "exact zeros by a Bernoulli gate an edge, as probable as in a random graph")
class EdgeGates(Hierarchy):
    """z ~ Bernoulli(p_ij) an edge, slab ~ Normal(0, slab_sd), weight = z slab: a random graph as prior on a layer.

    The p_ij are the probabilities of the edges in a random graph, each gate by itself: where edges of the graph depend
    on each other, as in Barabasi and Albert's, this is the product of their marginals, and what one edge of a hub says
    of its others is lost. The guide's q(z) is the posterior of the structure in the same form.

    Args:
        graph: ``"erdos-renyi"`` (default): all edges alike, of probability `density`; or ``"watts-strogatz"``: each
            output has `neighbours` nearest inputs, of which `rewiring` are moved elsewhere (`ring_layer`).
        density: Of ``"erdos-renyi"``: the probability of an edge; default None: 0.1.
        neighbours: Of ``"watts-strogatz"``, which needs it: edges that an output has in the mean.
        rewiring: Of ``"watts-strogatz"``: probability with which an edge is moved; default 0.1.
        probabilities: Of each edge, rows of `(out / gates, in)`, in place of a graph; default None. `edge_gates` gives
            the layers of a network those of any random graph.
        gates: How many gates a unit has, whose rows stand one gate after the other: an edge is one for all of them.
            Default 1; of a GRU 3, of an LSTM 4.
        evidence: Of ``"erdos-renyi"``: how many edges the stated density is worth, where it is not known but
            p ~ Beta(evidence density, evidence (1 - density)); default None: it is known.
        shared: Whether this p is one number a ``"layer"`` (default) or one for all layers under the pattern
            (``"network"``).
        slab_sd: Standard deviation of an included weight; default None: sqrt(2 / expected edges of an output), He's
            scale for the network that is left.
        initial_inclusion: Where the guide's inclusion probabilities start; default 0.9 (start dense).

    Raises:
        ValueError: If an argument is out of range or does not go with the graph.
    """

    def __init__(
        self,
        graph: str = "erdos-renyi",
        density: float | None = None,
        neighbours: int | None = None,
        rewiring: float = 0.1,
        probabilities: list[list[float]] | None = None,
        gates: int = 1,
        evidence: float | None = None,
        shared: str = "layer",
        slab_sd: float | None = None,
        initial_inclusion: float = 0.9,
    ) -> None:
        _check_choices(graph, density, neighbours, probabilities, evidence, shared)
        for name, share in {"density": density, "rewiring": rewiring, "initial_inclusion": initial_inclusion}.items():
            if share is not None and not 0.0 < share < 1.0:
                raise ValueError(f"EdgeGates({name}=...) must be strictly between 0 and 1, not {share}")
        for name, size in {"evidence": evidence, "slab_sd": slab_sd, "neighbours": neighbours}.items():
            if size is not None and not size > 0:
                raise ValueError(f"EdgeGates({name}=...) must be positive, not {size}")
        if not 1 <= gates <= _MOST_GATES:
            raise ValueError(f"EdgeGates(gates=...) must be a whole number from 1 to {_MOST_GATES}, not {gates}")
        alike = 0.1 if density is None else density
        given = None if probabilities is None else _matrix(probabilities)
        least = float(given.min()) if given is not None else alike if neighbours is None else _SELDOM
        self.edges = None if given is None else tuple(given.shape)
        self.neighbours, self.rewiring, self.gates = neighbours, rewiring, gates
        self._digest = None if given is None else hashlib.sha256(repr(given.tolist()).encode()).hexdigest()[:16]
        outputs, inputs = self.edges or (2, 3 if neighbours is None else 2 * neighbours + 1)
        self.tried_on = (gates * outputs, inputs)

        def between(outputs: int, inputs: int) -> Tensor:
            """Probabilities that broadcast to `(outputs, inputs)`."""
            if given is not None:
                return given.to(torch.get_default_device())
            if neighbours is not None:
                return ring_layer(outputs, inputs, neighbours, rewiring)
            return torch.full((1, 1), alike, dtype=torch.float64)

        def log_odds(size: int, fan_in: int, inputs: int) -> Tensor:
            return torch.logit(between(size // fan_in // gates, inputs))

        mean = alike if given is None else float(given.mean())

        def slab(fan_in: int) -> dist.Normal:
            edges = fan_in * mean if neighbours is None else neighbours
            return dist.Normal(0.0, math.sqrt(2.0 / edges) if slab_sd is None else slab_sd)

        def known(log_odds: Tensor, odds: Tensor) -> dist.Bernoulli:
            return dist.Bernoulli(logits=log_odds + odds.log())

        def unknown(p: Tensor, odds: Tensor) -> dist.Bernoulli:
            return dist.Bernoulli(logits=probs_to_logits(p, is_binary=True) + odds.log())

        above: dict[str, Any] = {"log_odds": Latent(log_odds, "edge", gates=gates)}
        if evidence is not None:
            beta = (evidence * alike, evidence * (1.0 - alike))
            above = {"p": Latent(lambda: dist.Beta(*beta), shared)}
        even = max(1.0, 1.0 / least - 1.0)  # at most so that the prior has no say for an edge
        super().__init__(
            **above,
            z=Latent(known if evidence is None else unknown, "edge", init=initial_inclusion, gates=gates),
            slab=Latent(slab),
            weight=lambda z, slab: z * slab,
            included=exact_zero(gate="z", slab="slab"),
            default_guide="paired",
            knobs={"odds": Knob(more="denser", low=1e-30, high=even, pace=8.0, shift="z")},
            budget="odds",
        )

    def __repr__(self) -> str:
        if self.edges is None:
            return super().__repr__()
        return f"EdgeGates(probabilities of {self.edges[0]} x {self.edges[1]} edges, gates={self.gates})"

    def structure(self) -> str:
        """As of any hierarchy, with a digest of the probabilities: their sum does not tell which edge is which."""
        return super().structure() if self._digest is None else f"{super().structure()}\nedges {self._digest}"

    def check_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuses a tensor whose edges are not those of the prior.

        Args:
            name: Name of the tensor.
            shape: Its shape, `(out, in, ...)`.

        Raises:
            ValueError: If it is no matrix, has other edges than `probabilities`, or fewer inputs than an output has
                neighbours.
        """
        is_alike = self.edges is None and self.neighbours is None
        if len(shape) != 2 and not (is_alike and len(shape) > 2):
            raise ValueError(
                f"EdgeGates on {name} of shape {shape}: edges are between the two sides of a matrix (of a convolution "
                "with 'erdos-renyi' alone), so narrow the pattern to such weights"
            )
        if shape[0] % self.gates:
            raise ValueError(
                f"EdgeGates(gates={self.gates}) on {name} of shape {shape}: its rows are not those of {self.gates} "
                "gates, so give the number that the layer has (1, of a GRU 3, of an LSTM 4)"
            )
        edges = (shape[0] // self.gates, shape[1])
        if self.edges is not None and edges != self.edges:
            raise ValueError(
                f"EdgeGates(probabilities=...) are of {self.edges[0]} x {self.edges[1]} edges, but {name} has "
                f"{edges[0]} x {edges[1]}: give a probability for each of these"
            )
        if self.neighbours is not None and self.neighbours >= edges[1]:
            raise ValueError(
                f"EdgeGates(neighbours={self.neighbours}) on {name}, which has {edges[1]} inputs: give fewer "
                "neighbours than inputs, or narrow the pattern"
            )
        if self.neighbours is not None:
            ring_layer(1, edges[1], self.neighbours, self.rewiring)


def _check_choices(
    graph: str,
    density: float | None,
    neighbours: int | None,
    probabilities: list[list[float]] | None,
    evidence: float | None,
    shared: str,
) -> None:
    """Refuses names that are not there, and settings of one graph beside another."""
    if graph not in EDGE_GRAPHS:
        raise ValueError(f"EdgeGates(graph=...) takes one of {', '.join(EDGE_GRAPHS)}, not {graph!r}")
    if shared not in ("layer", "network"):
        raise ValueError(f"EdgeGates(shared=...) takes layer or network, not {shared!r}")
    is_ring = graph == "watts-strogatz"
    if is_ring and neighbours is None:
        raise ValueError("EdgeGates(graph='watts-strogatz') needs how many inputs an output has: neighbours=4")
    if not is_ring and neighbours is not None:
        raise ValueError("EdgeGates(neighbours=...) is of graph='watts-strogatz': name it, or leave neighbours out")
    if is_ring and probabilities is not None:
        raise ValueError("EdgeGates(probabilities=...) stand in place of a graph: leave graph and neighbours out")
    if (is_ring or probabilities is not None) and (density is not None or evidence is not None):
        raise ValueError("EdgeGates(density=..., evidence=...) are of graph='erdos-renyi' alone: leave them out")


def _matrix(probabilities: list[list[float]]) -> Tensor:
    """The probabilities as `(out, in)`, float64, each strictly between 0 and 1."""
    try:
        found = torch.tensor(probabilities, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(0)
    if found.ndim != 2 or not 0 < found.numel() <= _MOST_EDGES:
        raise ValueError(
            f"EdgeGates(probabilities=...) takes rows of numbers, all as long, (out, in), up to {_MOST_EDGES:,} of them"
        )
    if not bool(((found > 0) & (found < 1)).all()):
        raise ValueError(
            "EdgeGates(probabilities=...) must be strictly between 0 and 1: a prior of 0 or 1 is a mask, which a layer "
            "of a graph has"
        )
    return found


def edge_gates(
    network: nn.Module,
    graphs: GraphPrior,
    least: float = 1e-3,
    slab_sd: float | None = None,
    initial_inclusion: float = 0.9,
) -> dict[str, EdgeGates]:
    """Edge gates on the weights of a network, as probable as the edges of a random graph over its vertices.

    Edges of the network that the random graph seldom has are not impossible but have probability `least`: a prior of
    zero would be a mask. Each gate is by itself, whatever the graph says of two edges together (`EdgeGates`).

    Args:
        network: Made of a graph, or of linear layers one after the other (`edge_places`): then inputs are the first
            vertices, and units follow in the order of the layers.
        graphs: The random graph, such as ``WattsStrogatz(40, 8, 0.1)``, of as many vertices as the network has.
        least: Smallest probability of an edge, and one less the largest; default 0.001.
        slab_sd: Standard deviation of an included weight; default None: as `EdgeGates` has it.
        initial_inclusion: Where inclusion probabilities start; default 0.9.

    Returns:
        A prior for each weight of the graph by its name: `priors=` of a `BayesianNetwork`. What reads inputs into the
        graph, or outputs out of it, has none.

    Raises:
        ValueError: If the network has another number of vertices or several units each, or `edge_places` does not know
            it.
    """
    places = edge_places(network)
    vertices = 1 + max(vertex for place in places for vertex in (*place.targets, *place.sources))
    if graphs.vertices != vertices:
        raise ValueError(
            f"{graphs} has {graphs.vertices} vertices, but the network has {vertices}: give a graph of as many"
        )
    if any(len(set(place.targets)) < len(place.targets) for place in places):
        raise ValueError(
            "the vertices of the network have several units each, so that an edge is a block of weights: make it with "
            "units=1"
        )
    if not 0.0 < least < 0.5:
        raise ValueError(f"edge_gates(least=...) must be between 0 and 0.5, not {least}")
    above = graphs.edge_probabilities()
    known = (above + above.T).clamp(least, 1.0 - least)
    return {
        place.tensor: EdgeGates(
            probabilities=known[list(place.targets)][:, list(place.sources)].tolist(),
            gates=place.gates,
            slab_sd=slab_sd,
            initial_inclusion=initial_inclusion,
        )
        for place in places
    }
