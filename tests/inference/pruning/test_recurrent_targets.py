"""Recurrent networks pruned by target, retrained, pruned again, saved: hidden-to-hidden, input-to-hidden, both."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp

CELLS = {"tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
TARGETS = {
    "hidden-to-hidden": "*weight_hh*",
    "input-to-hidden": "*weight_ih*",
    "both": ["*weight_hh*", "*weight_ih*"],
}


class Network(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell(4, 6, num_layers=2, batch_first=True)
        self.out = nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.cell(x)[0][:, -1])


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, 4, generator=generator)
    return x, (x[:, 0, 0] > 0).long()


@pytest.fixture(scope="module", params=list(CELLS))
def fit(request):
    torch.manual_seed(0)
    network = Network(CELLS[request.param])
    names = [name for name, p in network.named_parameters() if p.ndim > 1]
    model = bp.BayesianNetwork(network, dict.fromkeys(names, bp.Gaussian()), data_size=64)
    return bp.fit(model, data(), "map", epochs=3, batch_size=16, device="cpu")


@pytest.mark.parametrize("per", ["network", "layer", "distribution"])
@pytest.mark.parametrize("target", TARGETS)
def test_targets_are_pruned_and_stay_so_through_training_and_a_file(fit, target, per, tmp_path):
    pruned = bp.prune(fit, sparsity=0.8, only=TARGETS[target], per=per)
    wanted = ("hh",) if target == "hidden-to-hidden" else ("ih",) if target == "input-to-hidden" else ("hh", "ih")
    meant = [name for name in pruned.masks if any(f"weight_{part}" in name for part in wanted)]
    others = [name for name in pruned.masks if name not in meant]
    assert len(meant) == 2 * len(wanted) and all(bool(pruned.masks[name].all()) for name in others)
    whole, left = (
        sum(int(count) for count in counts)
        for counts in zip(*((m.numel(), m.sum()) for m in map(pruned.masks.get, meant)), strict=True)
    )
    assert abs(left - 0.2 * whole) <= len(meant)
    tuned = bp.finetune(pruned, data(), 2, batch_size=16, device="cpu")
    again = bp.finetune(bp.prune(tuned, share=0.5, only=TARGETS[target], per=per), data(), 1, device="cpu")
    weights = dict(again.network.named_parameters())
    for name, mask in again.masks.items():
        assert torch.equal(weights[name] != 0, mask) and not bool((mask & ~pruned.masks[name]).any())
        assert not torch.equal(weights[name], fit.model.network.get_parameter(name).cpu())
    fresh = Network(type(again.network.cell))
    torch.save(again.network.state_dict(), tmp_path / "weights.pt")
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(data()[0]), again.network(data()[0]))


def test_all_but_one_hidden_to_hidden_weight_can_go(fit):
    names = [name for name in bp.prune(fit, sparsity=0.0).masks if "weight_hh" in name]
    whole = sum(bp.prune(fit, sparsity=0.0).masks[name].numel() for name in names)
    pruned = bp.prune(fit, count=whole - 1, only="*weight_hh*")
    assert sum(int(pruned.masks[name].sum()) for name in names) == 1
    assert any("none of the" in note for note in pruned.report.notes)
    with pytest.raises(ValueError, match=f"count={whole - 1} leaves one"):
        bp.prune(fit, share=1.0, only="*weight_hh*")
