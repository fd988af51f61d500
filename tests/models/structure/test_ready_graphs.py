"""The graph networks that have a name, and what their configs may say."""

from __future__ import annotations

import json

import pyro
import pytest
import torch

from bayesprune.models.ready_networks import make_ready, network_from_config
from bayesprune.models.structure.graph_network import graph_network
from bayesprune.models.structure.masked_linear import MaskedLinear
from bayesprune.models.structure.random_graphs import WattsStrogatz
from bayesprune.models.structure.ready_graphs import READY_GRAPHS
from bayesprune.models.ways.plain_layers import plain_network


@pytest.mark.parametrize("name", READY_GRAPHS)
def test_a_network_is_made_again_from_its_config(name):
    pyro.set_rng_seed(0)
    made = make_ready(name, (1, 4, 4), 3, 0.3)
    assert made.graph.vertices == 30 and made.config["name"] == name and made.config["width"] == 0.3
    again = network_from_config(json.loads(json.dumps(made.config)))
    assert again.config == made.config and again.graph == made.graph
    again.load_state_dict(made.state_dict())
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(again(x), made(x))
    assert make_ready(name, (1, 4, 4), 3, 0.3).graph != made.graph  # drawn when it is built
    pyro.set_rng_seed(0)
    assert make_ready(name, (1, 4, 4), 3, 0.3).graph == made.graph
    assert make_ready(name, (4,), 3, 0.001).graph.vertices == 5


def test_options_and_plain_layers_are_noted_too():
    pyro.set_rng_seed(1)
    for options in ({"combine": "after", "units": 2}, {"readout": "last", "activation": "tanh", "layer_norm": True}):
        made = graph_network(WattsStrogatz(9, 4, 0.3), (6,), 2, **options)
        again = network_from_config(json.loads(json.dumps(made.config)))
        assert again.config == made.config and str(again) == str(made)
        name = next(n for n, module in made.named_modules() if isinstance(module, MaskedLinear))
        plain = plain_network(made, [f"{name}.weight"])
        assert type(plain.get_submodule(name)) is torch.nn.Linear and plain.config["plain"] == [name]
        assert isinstance(made.get_submodule(name), MaskedLinear) and "plain" not in made.config
        back = network_from_config(json.loads(json.dumps(plain.config)))
        back.load_state_dict(plain.state_dict())
        x = torch.randn(3, 6)
        assert torch.equal(back(x), made(x)) and back.config == plain.config
    assert plain_network(made) is made and plain_network(plain) is plain


GRAPH = {"vertices": 3, "edges": [[0, 1], [1, 2]]}
CONFIG = {"name": "graph", "input_shape": [4], "classes": 2, "graph": GRAPH}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"graph": 3}, "^graph is of type int, but vertices, edges and options are expected"),
        ({"graph": {**GRAPH, "vertices": 10**7}}, "^vertices is 10000000, but a whole number from 1 to 20,000"),
        ({"graph": {**GRAPH, "vertices": None}}, "^vertices is None, but"),
        ({"graph": {**GRAPH, "edges": "x"}}, "^edges are no list of 1 to 1,000,000 pairs"),
        ({"graph": {**GRAPH, "edges": []}}, "^edges are no list of"),
        ({"graph": {**GRAPH, "edges": [[0, 3]]}}, r"^edges are pairs of whole numbers below 3, not \[0, 3\]"),
        ({"graph": {**GRAPH, "edges": [[0, True]]}}, "^edges are pairs of whole numbers"),
        ({"graph": {**GRAPH, "edges": [[0, 1], [1, 2], [2, 0]]}}, "^the directed graph has a cycle"),
        ({"graph": {**GRAPH, "edges": [[0, 1]]}}, "^the graph is of 2 parts"),
        ({"graph": {**GRAPH, "units": 10**6}}, "^units is 1000000, but a whole number from 1 to 1,000"),
        ({"graph": {**GRAPH, "combine": "pre"}}, "^combine is 'pre', but one of before, after is expected"),
        ({"graph": {**GRAPH, "layer_norm": 1}}, "^layer_norm is '1', but one of False, True is expected"),
        ({"graph": {**GRAPH, "activation": [1]}}, "^activation is"),
        ({"plain": ["layers.0"]}, "^plain names no masked layers of the network"),
        ({"plain": "layers.1"}, "^plain names no masked layers"),
        ({"name": "gru"}, "^network 'gru' has no graph: expected graph, or one of watts-strogatz"),
        ({"name": None}, "^network 'None' has no graph"),
        ({"input_shape": [10**9]}, "^a size in input_shape is"),
    ],
)
def test_what_no_network_has_is_refused_in_a_sentence(more, said):
    assert network_from_config(CONFIG).graph.sizes == (1, 1, 1)
    with pytest.raises(ValueError, match=said) as told:
        network_from_config({**CONFIG, **more})
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


def test_a_network_that_cannot_be_held_is_refused_before_it_is_made():
    star = {"vertices": 2001, "edges": [[0, end] for end in range(1, 2001)], "units": 1000}
    with pytest.raises(ValueError, match="^graph of these sizes has .* parameters, but at most"):
        network_from_config({**CONFIG, "graph": star})
