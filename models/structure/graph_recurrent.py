"""Recurrent networks with the connections of a graph in layers, each vertex a hidden unit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bayesprune.models.networks.widths import require_positive
from bayesprune.models.structure.layered_graph import LayeredGraph
from bayesprune.models.structure.recurrent_layer import RecurrentLayer, checked_kind
from bayesprune.models.structure.token_sequences import at_last_token, checked_tokens

__all__ = ["SOURCES", "GraphRecurrent"]

SOURCES = "sources"
"""Width of an embedding that is the number of sources."""
_SKIPS = ("shared", "published")
_RECURRENT = ("dense", "diagonal", "graph")
_READOUTS = ("sinks", "last")


class GraphRecurrent(nn.Module):
    """A recurrent network over tokens whose layers and connections are those of a graph (Stier, Darji, Granitzer 2021).

    A token is looked up in an embedding, which all sources of the graph, the vertices of layer 0, hear as a whole. A
    vertex of another layer hears those that it has an edge from, at the same step, and vertices of its own layer one
    step before. The outputs are a linear function of the read-out vertices after the last token.

    Args:
        graph: The graph.
        classes: Number of outputs; default 2.
        kind: Of the recurrent layers, one of `bayesprune.models.structure.recurrent_layer.KINDS`; default ``"gru"``.
        vocabulary: Tokens that there are, with the padding, 0; default 128, the codes of ASCII.
        embedding: Width of the embedding; default 50, whatever the graph. ``"sources"`` is as published: as wide as
            there are sources, each of which hears all of it, so that the number of sources is how much of a token is
            known.
        skips: What an edge that leaves out layers becomes. ``"shared"`` (default): its vertex hears it as it hears the
            edges from the layer before, in one recurrent layer. ``"published"``: each pair of layers that skip edges
            join has a recurrent layer of its own, of as many units as the later of the two, whose outputs are added to
            those of that layer.
        recurrent: Which vertices of its layer a vertex hears. ``"dense"`` (default): all. ``"diagonal"``: itself.
            ``"graph"``: itself and those that it shares a neighbour with.
        readout: ``"sinks"`` (default): what the outputs read is all vertices without an edge from them. ``"last"``: the
            last layer, as published; other sinks then do nothing but for vertices of their layer.

    Attributes:
        graph: The graph.
        embedding: The embedding, weight `(vocabulary, width)`.
        layers: A `RecurrentLayer` for each layer of the graph.
        skips: Those of skip edges where they have their own; else empty.
        head: The read-out.

    Raises:
        ValueError: If an option is none of these, or a size is below 1.
    """

    def __init__(
        self,
        graph: LayeredGraph,
        classes: int = 2,
        kind: str = "gru",
        vocabulary: int = 128,
        embedding: int | str = 50,
        skips: str = "shared",
        recurrent: str = "dense",
        readout: str = "sinks",
    ) -> None:
        super().__init__()
        for name, given, known in (
            ("skips", skips, _SKIPS), ("recurrent", recurrent, _RECURRENT), ("readout", readout, _READOUTS),
        ):  # fmt: skip
            if given not in known:
                raise ValueError(f"{name}={given!r} is unknown: expected one of {', '.join(known)}")
        if isinstance(embedding, str) and embedding != SOURCES:
            raise ValueError(f"embedding={embedding!r} is unknown: give its width, or {SOURCES!r}")
        wide = len(graph.sources) if isinstance(embedding, str) else embedding
        require_positive(classes=classes, vocabulary=vocabulary, embedding=wide)
        checked_kind(kind)
        self.graph, self.readout = graph, readout
        self.embedding = nn.Embedding(vocabulary, wide)
        self.layers, self.skips = nn.ModuleList(), nn.ModuleList()
        into = [[first for first, second in graph.connections if second == at] for at in range(len(graph.layers))]
        self._skips: list[tuple[int, int]] = []
        if skips == "published":
            self._skips = [(first, at) for at, all_of in enumerate(into) for first in all_of if first != at - 1]
            into = [[first for first in all_of if first == at - 1] for at, all_of in enumerate(into)]
        self._into = into
        for at, own in enumerate(graph.layers):
            heard = _recurrent_mask(graph, at, recurrent)
            mask = torch.cat([graph.mask(first, at) for first in into[at]], 1) if at else None
            self.layers.append(RecurrentLayer(kind, mask.shape[1] if mask is not None else wide, len(own), mask, heard))
        for first, second in self._skips:
            mask = graph.mask(first, second)
            heard = _recurrent_mask(graph, second, recurrent)
            self.skips.append(RecurrentLayer(kind, mask.shape[1], len(mask), mask, heard))
        read = graph.sinks if readout == "sinks" else graph.layers[-1]
        place = {vertex: number for number, vertex in enumerate(sum(graph.layers, ()))}
        self.register_buffer("_read", torch.tensor([place[vertex] for vertex in read]), persistent=False)
        self.head = nn.Linear(len(read), classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Outputs `(N, classes)` for tokens `(N, steps)`, 0 after the end of a sequence."""
        x = self.embedding(checked_tokens(tokens))
        outputs: list[Tensor] = []
        for at, layer in enumerate(self.layers):
            found = layer(_joined([outputs[first] for first in self._into[at]]) if at else x)
            for (first, second), skip in zip(self._skips, self.skips, strict=True):
                if second == at:
                    found = found + skip(outputs[first])
            outputs.append(found)
        last = torch.cat([at_last_token(found, tokens) for found in outputs], 1)
        return self.head(last[:, self.get_buffer("_read")])


def _joined(outputs: Sequence[Tensor]) -> Tensor:
    return outputs[0] if len(outputs) == 1 else torch.cat(list(outputs), 2)


def _recurrent_mask(graph: LayeredGraph, at: int, kind: str) -> Tensor | None:
    own = graph.layers[at]
    if kind == "dense":
        return None
    if kind == "diagonal":
        return torch.eye(len(own), dtype=torch.bool)
    near: list[set[int]] = [set() for _ in range(graph.vertices)]
    for begin, end in graph.edges:
        near[begin].add(end)
        near[end].add(begin)
    return torch.tensor([[one == other or bool(near[one] & near[other]) for other in own] for one in own])
