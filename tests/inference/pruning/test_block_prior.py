"""A prior on blocks reaches the sparse format that stores blocks."""

import torch
from torch import nn

import bayesprune as bp
from bayesprune.models.deployment.sparse_linear import SparseLinear


def fitted(level):
    torch.manual_seed(0)
    x, y = torch.randn(32, 512), torch.randint(2, (32,))
    network = nn.Sequential(nn.Linear(512, 512, bias=False), nn.ReLU(), nn.Linear(512, 2))
    bnn = bp.BayesianNetwork(network, {"0.weight": bp.SpikeAndSlab(0.05, level=level)}, data_size=32)
    fit = bp.fit(bnn, (x, y), steps=1, device="cpu")
    gates = fit.guide.log_odds()["0.weight.z"]
    chosen = torch.randperm(gates.numel())[: round(0.05 * gates.numel())]
    decided = torch.full((gates.numel(),), -9.0)
    decided[chosen] = 9.0
    parameter = next(p for name, p in fit.guide.named_parameters() if name.endswith("logit"))
    with torch.no_grad():
        parameter.copy_(decided)
    return fit, len(chosen), x


def test_blocks_that_the_prior_keeps_are_the_blocks_that_bsr_stores():
    fit, kept, x = fitted("block")
    result = bp.prune(fit, min_inclusion=0.5)
    assert int(result.masks["0.weight"].sum()) == kept * 256
    layer = SparseLinear(result.network[0], (16, 16))
    stored = next(buffer for name, buffer in layer.named_buffers() if "values" in name)
    assert stored.shape == (kept, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), result.network[0](x), rtol=1e-4, atol=1e-5)


def test_as_many_single_weights_leave_hardly_a_block_empty():
    fit, kept, _ = fitted("weight")
    result = bp.prune(fit, min_inclusion=0.5)
    assert int(result.masks["0.weight"].sum()) == kept
    layer = SparseLinear(result.network[0], (16, 16))
    stored = next(buffer for name, buffer in layer.named_buffers() if "values" in name)
    assert len(stored) > 0.99 * 1024
