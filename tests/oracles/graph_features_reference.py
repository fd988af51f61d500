"""Features of graphs in numpy alone, from their definitions: distances by Floyd and Warshall, betweenness by counting.

A graph is its edges, each from the lower to the higher number; nothing of the package or of networkx is used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Edges = Sequence[tuple[int, int]]


def distances(n: int, edges: Edges) -> Array:
    d = np.full((n, n), np.inf)
    np.fill_diagonal(d, 0.0)
    for a, b in edges:
        d[a, b] = d[b, a] = 1.0
    for k in range(n):
        d = np.minimum(d, d[:, [k]] + d[[k], :])
    return d


def shortest_paths(n: int, edges: Edges, d: Array) -> Array:
    """How many shortest paths there are between two vertices."""
    near = {v: [a if b == v else b for a, b in edges if v in (a, b)] for v in range(n)}
    count = np.eye(n)
    for s in range(n):
        for t in sorted(range(n), key=lambda v: d[s, v]):
            if s != t:
                count[s, t] = sum(count[s, v] for v in near[t] if d[s, v] + 1 == d[s, t])
    return count


def layer_of(n: int, edges: Edges) -> list[int]:
    """Length of the longest path to each vertex, by relaxing edges until nothing changes."""
    found = [0] * n
    for _ in range(n):
        for a, b in edges:
            found[b] = max(found[b], found[a] + 1)
    return found


def reference_features(n: int, edges: Edges) -> dict[str, float]:
    d, layers = distances(n, edges), layer_of(n, edges)
    paths, pairs = shortest_paths(n, edges, d), list(itertools.combinations(range(n), 2))
    through, along = np.zeros(n), np.zeros(len(edges))
    for s, t in pairs:
        for v in range(n):
            if v not in (s, t) and d[s, v] + d[v, t] == d[s, t]:
                through[v] += paths[s, v] * paths[v, t] / paths[s, t]
        for number, edge in enumerate(edges):
            for a, b in (edge, edge[::-1]):
                if d[s, a] + 1 + d[b, t] == d[s, t]:
                    along[number] += paths[s, a] * paths[b, t] / paths[s, t]
    degree = np.array([sum(v in edge for edge in edges) for v in range(n)], dtype=float)
    found = {
        "layers": max(layers) + 1.0,
        "nodes": float(n),
        "edges": float(len(edges)),
        "source_nodes": float(layers.count(0)),
        "sink_nodes": float(layers.count(max(layers))),
        "diameter": d.max(),
        "density": len(edges) / (n * (n - 1)),
        "average_path_length": np.mean([d[s, t] for s, t in pairs]),
    }
    spread = {
        "eccentricity": d.max(1),
        "degree": degree / (n - 1),
        "closeness": (n - 1) / d.sum(1),
        "node_betweenness": through / ((n - 1) * (n - 2) / 2),
        "edge_betweenness": along / len(pairs),
    }
    for name, values in spread.items():
        centred = values - values.sum() / len(values)
        variance = (centred**2).sum() / (len(values) - 1)
        found |= {f"{name}_mean": values.sum() / len(values), f"{name}_variance": variance}
        found[f"{name}_sd"] = math.sqrt(variance)
    return found


def reference_further(n: int, edges: Edges) -> dict[str, float]:
    d, layers = distances(n, edges), layer_of(n, edges)
    a = (d == 1.0).astype(float)
    degree, triangles = a.sum(1), np.diag(a @ a @ a) / 2.0
    triples = degree * (degree - 1) / 2.0
    ends = np.array([(degree[s], degree[t]) for edge in edges for s, t in (edge, edge[::-1])])
    directed = np.zeros((n, n))
    for s, t in edges:
        directed[s, t] = 1.0
    first = np.array([v for v in range(n) if directed[:, v].sum() == 0])
    last = np.array([v for v in range(n) if directed[v].sum() == 0])
    power, counts, reach = np.eye(n), [], np.eye(n)
    for _ in range(n):
        counts.append(power[np.ix_(first, last)].sum())
        reach = reach + power
        power = power @ directed
    counts = np.array(counts)
    top = [v for v in range(n) if layers[v] == max(layers)]
    passed = {at for s, t in edges for at in range(layers[s] + 1, layers[t])}
    single = [at for at in range(1, max(layers)) if layers.count(at) == 1 and at not in passed]
    return {
        "clustering": np.mean([t / k if k else 0.0 for t, k in zip(triangles, triples, strict=True)]),
        "transitivity": triangles.sum() / triples.sum(),
        "assortativity": np.corrcoef(ends.T)[0, 1] if ends.std() > 0 else 0.0,
        "global_efficiency": np.mean([1.0 / d[s, t] for s, t in itertools.combinations(range(n), 2)]),
        "local_efficiency": np.mean([_efficiency_around(v, a) for v in range(n)]),
        "log_paths": math.log(counts.sum()),
        "path_edges_mean": (counts * np.arange(n)).sum() / counts.sum(),
        "skip_share": np.mean([layers[t] - layers[s] > 1 for s, t in edges]),
        "bottlenecks": float(len(single)),
        "dead_share": np.mean([reach[v, top].sum() == 0 for v in range(n)]),
        "in_degree_variance": directed.sum(0).var(ddof=1),
    }


def _efficiency_around(v: int, a: Array) -> float:
    near = np.flatnonzero(a[v])
    if len(near) < 2:
        return 0.0
    inside = [(i, j) for i, j in itertools.combinations(range(len(near)), 2) if a[near[i], near[j]]]
    d = distances(len(near), inside)
    return float(np.mean([1.0 / d[i, j] for i, j in itertools.combinations(range(len(near)), 2)]))
