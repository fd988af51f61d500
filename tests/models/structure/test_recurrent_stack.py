"""Recurrent networks over tokens: unequal lengths, and what a fit of one is asked, in both executions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.models.costs.macs import count_macs
from bayesprune.models.costs.weight_names import weight_names
from bayesprune.models.masks.effective_masks import effective_masks
from bayesprune.models.networks.placing import looks_up, zeros_for
from bayesprune.models.ready_networks import make_ready, network_from_config
from bayesprune.models.structure.recurrent_layer import KINDS, RecurrentLayer
from bayesprune.models.structure.recurrent_stack import RecurrentStack
from bayesprune.models.structure.token_sequences import at_last_token

EACH = pytest.mark.parametrize("kind", KINDS)
STEPS = 8


def small(kind="gru", hidden=(4, 3)):
    torch.manual_seed(0)
    return RecurrentStack(kind, 2, 12, 5, hidden).double()


def tokens(n=9, steps=STEPS, seed=0):
    """Of lengths from 1 up to all steps."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(1, 12, (n, steps), generator=generator)
    lengths = torch.arange(n) % steps + 1
    return drawn * (torch.arange(steps) < lengths[:, None])


# -- unequal lengths --------------------------------------------------------------------------------------------------


@EACH
@torch.no_grad()
def test_sequences_in_one_batch_give_what_each_gives_alone_without_padding(kind):
    network, x = small(kind), tokens()
    together = network(x)
    for row, found in zip(x, together, strict=True):
        alone = network(row[row != 0][None])
        torch.testing.assert_close(found, alone[0], rtol=0, atol=1e-12)
    wider = network(torch.cat([x, torch.zeros(len(x), 5, dtype=torch.int64)], 1))
    torch.testing.assert_close(wider, together, rtol=0, atol=1e-12)
    last = network.head(_outputs(network, x)[:, -1])  # the published read-out, after the padding
    assert float((last - together).abs().max()) > 1e-3


@torch.no_grad()
def _outputs(network, x):
    found = network.embedding(x)
    for layer in network.layers:
        found = layer(found)
    return found


@EACH
@torch.no_grad()
def test_a_stack_is_the_loop_of_torchs_layers(kind):
    network, x = small(kind, (4, 4)), tokens()
    torchs = {"gru": nn.GRU, "lstm": nn.LSTM}.get(kind, nn.RNN)
    more = {} if kind in ("gru", "lstm") else {"nonlinearity": kind.removeprefix("rnn-")}
    other = torchs(5, 4, 2, batch_first=True, **more).double()
    names = {"weight_ih": "input.weight", "weight_hh": "recurrent.weight"}
    names |= {"bias_ih": "input.bias", "bias_hh": "recurrent.bias"}
    for number, layer in enumerate(network.layers):
        for theirs, ours in names.items():
            getattr(other, f"{theirs}_l{number}").copy_(layer.get_parameter(ours))
    lengths = (x != 0).sum(1)
    packed = nn.utils.rnn.pack_padded_sequence(network.embedding(x), lengths, batch_first=True, enforce_sorted=False)
    after = other(packed)[1]
    last = (after[0] if kind == "lstm" else after)[-1]
    torch.testing.assert_close(network(x), network.head(last), rtol=0, atol=1e-12)


def test_the_last_token_is_found_also_where_there_is_none():
    outputs = torch.arange(12.0).reshape(2, 3, 2)
    assert at_last_token(outputs, torch.tensor([[4, 0, 0], [4, 0, 7]])).tolist() == [[0.0, 1.0], [10.0, 11.0]]
    assert at_last_token(outputs, torch.zeros(2, 3, dtype=torch.int64)).tolist() == [[0.0, 1.0], [6.0, 7.0]]


def test_what_is_no_token_is_refused():
    with pytest.raises(ValueError, match=r"the network got float32 of shape \(2, 8\), but it reads tokens"):
        small()(torch.zeros(2, 8))
    with pytest.raises(ValueError, match=r"got int64 of shape \(8,\)"):
        small()(torch.zeros(8, dtype=torch.int64))
    with pytest.raises(ValueError, match="layers is 0"):
        RecurrentStack("gru", hidden=())


# -- by name ----------------------------------------------------------------------------------------------------------


@EACH
@torch.no_grad()
def test_a_network_by_name_is_made_again_from_its_config(kind):
    torch.manual_seed(0)
    made = make_ready(f"{kind}-stack", (STEPS,), 3, 0.2)
    assert [layer.hidden for layer in made.layers] == [10, 10, 10] and made.embedding.weight.shape == (128, 10)
    again = network_from_config(json.loads(json.dumps(made.config)))
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(tokens()), made(tokens()))
    with pytest.raises(ValueError, match=r"needs sequences of whole numbers \(steps,\): use gru or lstm"):
        make_ready(f"{kind}-stack", (STEPS, 2), 3)
    with pytest.raises(ValueError, match="parameters, but at most"):
        make_ready(f"{kind}-stack", (STEPS,), 3, 1000.0)


def test_targets_are_found_by_patterns_and_the_embedding_counts_as_a_weight():
    network = small()
    names = weight_names(network)
    assert "embedding.weight" in names and len(names) == 6
    assert [name for name in names if name.endswith(".recurrent.weight")] == [
        "layers.0.recurrent.weight", "layers.1.recurrent.weight",
    ]  # fmt: skip
    macs = count_macs(network, tokens(1))
    assert macs["layers.0.input"].dense == STEPS * 3 * 4 * 5
    assert macs["layers.0.recurrent"].dense == STEPS * 3 * 4 * 4


def test_inputs_of_zeros_are_whole_numbers_where_a_network_looks_them_up():
    network = small()
    assert looks_up(network) and zeros_for(network, (3,), 2).dtype == torch.int64
    dense = nn.Linear(3, 2).double()
    assert not looks_up(dense) and zeros_for(dense, (3,)).dtype == torch.float64


# -- paths ------------------------------------------------------------------------------------------------------------


@EACH
def test_paths_through_time_are_those_of_a_loop(kind):
    """Of a layer of two units, the second is heard by nobody: its weights lie on no path."""
    network = small(kind, (2,))
    gates = KINDS[kind]
    masks = {f"layers.0.{name}.weight": torch.ones(2 * gates, size, dtype=torch.bool)
             for name, size in (("input", 5), ("recurrent", 2))}  # fmt: skip
    masks["layers.0.recurrent.weight"][0::2, 1] = False
    masks["head.weight"] = torch.tensor([[True, False], [True, False]])
    found = effective_masks(network, masks, (STEPS,))
    last = found["layers.0.input.weight"].reshape(gates, 2, 5)  # gates of a unit count as open
    assert bool(last[-1 if kind != "lstm" else 2, 0].all()) and not bool(last[:, 1].any())
    assert not bool(found["layers.0.recurrent.weight"].reshape(gates, 2, 2)[:, 1].any())


# -- through fit ------------------------------------------------------------------------------------------------------


def data(n=160):
    x = tokens(n, STEPS, seed=1)
    return x, (x[:, 0] > 6).long()


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    network = make_ready("gru-stack", (STEPS,), 2, 0.1)
    model = bp.BayesianNetwork(network, {"layers.*.weight": bp.Gaussian()}, bp.Categorical(), data_size=160)
    return bp.fit(model, data(), epochs=30, batch_size=32, guide="meanfield", learning_rate=0.03, seed=0)


def test_a_fit_learns_the_first_token_and_is_pruned_by_target(fitted):
    assert fitted.score(*data())["accuracy"] > 0.95
    result = bp.prune(fitted, sparsity=0.5, only="*.recurrent.weight", criterion="magnitude")
    own = dict(result.network.named_parameters())
    zeros = {name: float((own[name] == 0).double().mean()) for name in result.masks}
    hidden = [share for name, share in zeros.items() if name.endswith("recurrent.weight")]
    assert sum(hidden) / len(hidden) == pytest.approx(0.5, abs=0.01)
    assert all(share == 0 for name, share in zeros.items() if name.endswith("input.weight"))
    tuned = bp.finetune(result, data(), 1)
    assert all(bool((dict(tuned.network.named_parameters())[name][~mask] == 0).all())
               for name, mask in tuned.masks.items())  # fmt: skip


def test_a_fit_is_saved_and_loaded(fitted, tmp_path):
    fitted.save(tmp_path / "fit")
    again = bp.Fit.load(tmp_path / "fit")
    x, _ = data()
    assert torch.equal(again.predict(x, 4).mean, fitted.predict(x, 4).mean)


@EACH
@pytest.mark.parametrize("particles", [1, 2])
def test_both_executions_train_alike(kind, particles):
    finals = []
    for execution in ("plain", "fused"):
        torch.manual_seed(0)
        network = RecurrentStack(kind, 2, 12, 4, (3, 3))
        model = bp.BayesianNetwork(network, {"layers.*.weight": bp.Gaussian()}, bp.Categorical(), data_size=160)
        more = {"compiled": False} if execution == "fused" else {}
        fit = bp.fit(model, data(), epochs=2, batch_size=32, execution=execution, particles=particles, seed=0, **more)
        assert fit.settings["execution"]["name"] == execution
        finals.append(fit.predict(data()[0], 4).mean)
    torch.testing.assert_close(*finals, rtol=1e-4, atol=1e-5)


def test_a_network_of_ones_own_with_a_layer_of_torchs_taken_over():
    torch.manual_seed(0)
    layer = RecurrentLayer.from_torch(nn.GRU(3, 4))
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 6, 3))).float()
    assert layer(x).shape == (5, 6, 4) and set(dict(layer.named_parameters())) == {
        "input.weight", "input.bias", "recurrent.weight", "recurrent.bias",
    }  # fmt: skip


@pytest.mark.slow
def test_the_page_on_recurrent_networks_runs():
    page = (Path(__file__).resolve().parents[3] / "docs" / "recurrent.md").read_text(encoding="utf-8")
    space = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(re.sub(r"epochs=\d+", "epochs=1", block), "docs/recurrent.md", "exec"), space)
    assert space["hidden"].report.sparsity > 0.3 and space["x"].shape == (2000, 30)
