"""Runs of networks of random graphs: what was drawn is kept with them, whatever is drawn later."""

from __future__ import annotations

import json

import pytest
import torch

from bayesprune.commands.pruned_folder import load_pruned
from bayesprune.models.structure.masked_linear import masks_of
from bayesprune.runs.run_folder import load_run


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "graph"
    made(
        "fit", "--data", "digits", "--network", "barabasi-albert", "--width", 0.25, "--prior", "gaussian",
        "--epochs", 1, "--seed", 3, "--quiet", "--out", out,
    )  # fmt: skip
    return out


def test_a_run_is_read_with_the_graph_of_its_own_seed(run):
    fit, x = load_run(run), torch.zeros(2, 1, 8, 8)
    edges = json.loads((run / "fit.json").read_text())["network"]["graph"]["edges"]
    assert [list(edge) for edge in fit.model.network.graph.edges] == edges
    torch.manual_seed(5)
    assert torch.equal(load_run(run).model.network(x), fit.model.network(x))


def test_a_pruned_network_is_read_with_its_graph_and_none_other(run, made, tmp_path):
    made("prune", run, "--sparsity", 0.6, "--compact", "--out", tmp_path / "small")
    made("prune", run, "--sparsity", 0.6, "--out", tmp_path / "pruned")
    masks = masks_of(load_run(run).model.network)
    network, x = load_pruned(tmp_path / "pruned")[0], torch.randn(4, 1, 8, 8)
    assert all(bool((network.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())
    torch.testing.assert_close(load_pruned(tmp_path / "small")[0](x), network(x))
    summary = json.loads((tmp_path / "pruned" / "summary.json").read_text())
    summary["network_config"]["graph"]["edges"] = [[0, 99]]
    (tmp_path / "pruned" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match="summary.json is damaged .*edges are pairs of whole numbers below 8"):
        load_pruned(tmp_path / "pruned")
