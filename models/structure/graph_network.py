"""Feed-forward networks with the connections of a graph: each vertex a unit, each edge a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import networkx as nx
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from bayesprune.models.checks.given_numbers import whole_number
from bayesprune.models.structure.edge_places import EdgePlace
from bayesprune.models.structure.layered_graph import LayeredGraph, layered
from bayesprune.models.structure.masked_linear import MaskedLinear

__all__ = ["ACTIVATIONS", "COMBINE", "GRAPH", "READOUTS", "GraphNetwork", "graph_network"]

GRAPH = "graph"
"""Key of `network.config` that has the edges, and how the network is made of them."""
COMBINE = ("before", "after")
READOUTS = ("sinks", "last")
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}

_TRIES = 100  # draws of a random graph, until one is of one part


class GraphNetwork(nn.Module):
    """A network whose hidden units are the vertices of a graph in layers, with skip connections where it has them.

    Inputs go to all vertices of layer 0 by a dense layer. Each further layer reads those before it from which it has
    edges: z_l = sum over s of W_sl a_s + b_l, a_l = activation(z_l), with W_sl zero but for the edges (Stier, Darji and
    Granitzer 2021). The sum over s is one `MaskedLinear` a layer, over the layers that it reads, one after the other.
    Outputs are a linear function of the vertices that are read out.

    Weights of the vertices start uniform with mean square gain^2 / connections, all of a vertex counted, whatever layer
    they come from, with the gain of the activation: so that the signal keeps its size through hundreds of layers.

    Args:
        graph: The graph.
        inputs: Numbers in one input, which is flattened.
        outputs: Number of outputs.
        combine: ``"before"`` (default): what a layer gets is summed before the activation, as above. ``"after"``: each
            connection of two layers has a bias and an activation of its own, and these are summed, as in deepstruct.
        readout: ``"sinks"`` (default): of all vertices without an edge from them; ``"last"``: of the last layer alone,
            as in deepstruct; vertices that reach none of it are then dead (`dead_vertices`).
        units: Units of each vertex; an edge is a dense block of them. Default 1.
        activation: ``"relu"`` (default) or ``"tanh"``.
        layer_norm: Whether each layer of at least two units is normalised before its activation; with
            ``combine="after"`` the part from the layer before it. Default False.

    Attributes:
        graph: The graph.
        layers: The linear layers by number, from that of the inputs on: parameters are ``layers.3.weight``,
            `(units of the layer, units of the layers that it reads)`. With ``combine="after"`` ``layers.3.1.weight`` is
            from layer 1 to layer 3.
        output: The linear layer of the outputs; masked where the layers that it reads have vertices of other kinds.

    Raises:
        ValueError: If a number is below 1, an option unknown, or the graph no `LayeredGraph` in layers of its edges.
    """

    def __init__(
        self,
        graph: LayeredGraph,
        inputs: int,
        outputs: int,
        combine: Literal["before", "after"] = "before",
        readout: Literal["sinks", "last"] = "sinks",
        units: int = 1,
        activation: Literal["relu", "tanh"] = "relu",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        _check_graph(graph)
        for name, value, known in (
            ("combine", combine, COMBINE), ("readout", readout, READOUTS), ("activation", activation, ACTIVATIONS)
        ):  # fmt: skip
            if value not in known:
                raise ValueError(f"{name}= takes one of {', '.join(known)}, not {value!r}")
        self.graph, self.combine, self.readout, self.units = graph, combine, readout, whole_number("units", units)
        sizes = [self.units * size for size in graph.sizes]
        reads: list[list[int]] = [[] for _ in sizes]
        for source, target in graph.connections:
            reads[target].append(source)
        self._reads = tuple(map(tuple, reads))
        read_out = set(graph.sinks) if readout == "sinks" else set(graph.layers[-1])
        self._read_out = tuple(n for n, layer in enumerate(graph.layers) if read_out & set(layer))
        made: list[nn.Module] = [nn.Linear(whole_number("inputs", inputs), sizes[0])]
        for layer, read in enumerate(self._reads[1:], start=1):
            masks = [graph.mask(source, layer) for source in read]
            if combine == "before":
                made.append(MaskedLinear(_blocks(torch.cat(masks, 1), self.units)))
            else:
                parts = {str(s): MaskedLinear(_blocks(mask, self.units)) for s, mask in zip(read, masks, strict=True)}
                made.append(nn.ModuleDict(parts))
        self.layers = nn.ModuleList(made)
        self.norms = nn.ModuleList(nn.LayerNorm(size) if layer_norm and size > 1 else nn.Identity() for size in sizes)
        self.activation = ACTIVATIONS[activation]()
        last = [vertex in read_out for n in self._read_out for vertex in graph.layers[n]]
        mask = _blocks(torch.tensor([last]), self.units)[:1].expand(whole_number("outputs", outputs), -1)
        self.output: nn.Linear = nn.Linear(mask.shape[1], mask.shape[0]) if all(last) else MaskedLinear(mask)
        self._gain = nn.init.calculate_gain(activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights and biases anew; biases within 1 / sqrt(connections), as torch's linear layers."""
        for number, layer in enumerate(self.layers):
            parts: list[Any] = list(layer.values()) if isinstance(layer, nn.ModuleDict) else [layer]
            masks = [part.mask if isinstance(part, MaskedLinear) else torch.ones_like(part.weight) for part in parts]
            connections = torch.stack([mask.sum(1) for mask in masks]).sum(0).clamp_min(1).to(parts[0].weight.dtype)
            # The first layer reads data of mean square one, not an activation.
            most = (self._gain if number else 1.0) * (3.0 / connections).sqrt()
            with torch.no_grad():
                for part, mask in zip(parts, masks, strict=True):
                    part.weight.copy_((2.0 * torch.rand_like(part.weight) - 1.0) * most[:, None] * mask)
                    part.bias.copy_((2.0 * torch.rand_like(part.bias) - 1.0) / connections.sqrt())
        self.output.reset_parameters()

    @property
    def dead_vertices(self) -> tuple[int, ...]:
        """Vertices from which no path leads to a vertex that is read out, sorted: they change no output."""
        alive = set(self.graph.sinks) if self.readout == "sinks" else set(self.graph.layers[-1])
        place = self.graph.layer_of
        for begin, end in sorted(self.graph.edges, key=lambda edge: -place[edge[0]]):
            if end in alive:
                alive.add(begin)
        return tuple(vertex for vertex in range(self.graph.vertices) if vertex not in alive)

    def edge_places(self) -> tuple[EdgePlace, ...]:
        """The edges of the graph that the weights of its layers are; a vertex of several units stands as often."""
        found = []
        for layer, read in enumerate(self._reads[1:], start=1):
            parts = [(f"layers.{layer}.weight", read)]
            if self.combine == "after":
                parts = [(f"layers.{layer}.{source}.weight", (source,)) for source in read]
            for tensor, sources in parts:
                mask = torch.cat([_blocks(self.graph.mask(source, layer), self.units) for source in sources], 1)
                columns = [vertex for source in sources for vertex in self.graph.layers[source]]
                found.append(
                    EdgePlace(tensor, self._units_of(self.graph.layers[layer]), self._units_of(columns), mask=mask)
                )
        return tuple(found)

    def _units_of(self, vertices: Sequence[int]) -> tuple[int, ...]:
        return tuple(vertex for vertex in vertices for _ in range(self.units))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `(N, outputs)` of inputs `(N, ...)`."""
        made = [self.activation(self.norms[0](self.layers[0](x.flatten(1))))]
        for number, read in enumerate(self._reads[1:], start=1):
            layer, norm = self.layers[number], self.norms[number]
            if self.combine == "before":
                made.append(self.activation(norm(layer(_joined([made[source] for source in read])))))
                continue
            total = self.activation(norm(layer[str(number - 1)](made[number - 1])))  # type: ignore[index]
            for source in read[:-1]:
                total = total + self.activation(layer[str(source)](made[source]))  # type: ignore[index]
            made.append(total)
        return self.output(_joined([made[number] for number in self._read_out]))

    def extra_repr(self) -> str:
        """What it is made of."""
        main, skip = len(self.graph.main_edges), len(self.graph.skip_edges)
        return f"{self.graph.vertices} vertices in {len(self.graph.layers)} layers, {main} main and {skip} skip edges"


def graph_network(
    graph: LayeredGraph | nx.Graph | Tensor | TorchDistribution,
    input_shape: Sequence[int],
    outputs: int,
    combine: Literal["before", "after"] = "before",
    readout: Literal["sinks", "last"] = "sinks",
    units: int = 1,
    activation: Literal["relu", "tanh"] = "relu",
    layer_norm: bool = False,
) -> GraphNetwork:
    """A `GraphNetwork` of a graph, or of a draw of a random graph, that a saved fit can be read with.

    Args:
        graph: A `LayeredGraph`; what `layered` takes (a graph of networkx, an adjacency matrix); or a distribution of
            adjacency matrices such as `WattsStrogatz`, of which one is drawn that is of one part.
        input_shape: Shape of one input.
        outputs: Number of outputs.
        combine: See `GraphNetwork`.
        readout: See `GraphNetwork`.
        units: See `GraphNetwork`.
        activation: See `GraphNetwork`.
        layer_norm: See `GraphNetwork`.

    Raises:
        ValueError: As `layered` and `GraphNetwork`; or if a random graph is never of one part.
    """
    if isinstance(graph, TorchDistribution):
        graph = _drawn(graph)
    found = graph if isinstance(graph, LayeredGraph) else layered(graph)
    made = GraphNetwork(found, math.prod(input_shape), outputs, combine, readout, units, activation, layer_norm)
    made.config = {  # type: ignore[assignment]
        "name": GRAPH, "input_shape": list(input_shape), "classes": outputs, "width": 1.0,
        GRAPH: {
            "vertices": found.vertices, "edges": [list(edge) for edge in found.edges], "combine": combine,
            "readout": readout, "units": units, "activation": activation, "layer_norm": layer_norm,
        },
    }  # fmt: skip
    return made


def _drawn(prior: TorchDistribution) -> Tensor:
    for _ in range(_TRIES):
        adjacency = prior.sample()
        if nx.is_connected(nx.from_numpy_array((adjacency != 0).cpu().numpy())):
            return adjacency
    raise ValueError(f"{prior} drew {_TRIES} graphs, each of several parts: make it denser")


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _blocks(mask: Tensor, units: int) -> Tensor:
    """The mask with each entry as a block of so many rows and columns."""
    return mask.repeat_interleave(units, 0).repeat_interleave(units, 1)


def _check_graph(graph: Any) -> None:
    """Refuses what is no graph in layers, and one written by hand whose layers are not those of its edges."""
    if not isinstance(graph, LayeredGraph):
        raise ValueError(
            f"a LayeredGraph is expected, not {type(graph).__name__}: write layered(graph), or call graph_network"
        )
    try:
        again = layered(graph.graph())
    except KeyError:
        again = None
    if again != graph:
        raise ValueError("the layers of the graph are not those of the longest paths of its edges: make it by layered")
