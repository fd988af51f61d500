"""Re-estimated statistics of batch normalisation, against means and variances taken directly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

from bayesprune.inference.data.batch_normalisation import reestimate_statistics

SIZE = 101


@pytest.fixture
def data():
    torch.manual_seed(3)
    x = 2.0 + torch.randn(SIZE, 2, 6, 6, dtype=torch.float64) * torch.linspace(0.5, 3.0, SIZE)[:, None, None, None]
    return x, torch.arange(SIZE) % 3


@pytest.fixture
def network():
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3, momentum=None), nn.Flatten(), nn.Linear(12, 3),
    ).double()  # fmt: skip


def statistics(values):
    """Mean and unbiased variance of each channel, `(n, channels, ...)`."""
    flat = values.detach().movedim(1, 0).flatten(1)
    return flat.mean(1), flat.var(1, correction=1)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_one_batch_gives_the_mean_and_the_unbiased_variance_of_every_layer(network, data):
    assert reestimate_statistics(network, data, batch_size=SIZE) == 2
    with torch.no_grad():
        before = network[0](data[0])
        mean, variance = statistics(before)
        close(network[1].running_mean, mean)
        close(network[1].running_var, variance)
        # What the second layer saw is normalised by the biased variance of the batch, and nothing is dropped.
        biased = before.movedim(1, 0).flatten(1).var(1, correction=0)
        shape = (1, -1, 1, 1)
        hidden = torch.relu((before - mean.view(shape)) / (biased.view(shape) + network[1].eps).sqrt())
        close(network[5].running_mean, statistics(network[4](hidden))[0])


@pytest.mark.parametrize("batch_size", [100, 40, 7])
def test_statistics_are_those_of_all_data_whatever_the_batches(network, data, batch_size):
    seen = []
    look = lambda module, inputs, output: seen.append(output) if network[1].training else None  # noqa: E731
    handle = network[0].register_forward_hook(look)
    reestimate_statistics(network, data, batch_size)
    handle.remove()
    assert sum(len(part) for part in seen) == SIZE  # one image alone has a variance, that of its pixels
    mean, variance = statistics(torch.cat(seen))
    close(network[1].running_mean, mean)
    close(network[1].running_var, variance)
    assert network[1].num_batches_tracked == len(seen)
    # Control: averages over the batches, as `update_bn` takes them, are something else.
    mean, variance = (torch.stack(parts).mean(0) for parts in zip(*map(statistics, seen), strict=True))
    assert batch_size == 100 or float((network[1].running_mean - mean).abs().max()) > 1e-6
    assert batch_size == 100 or float((network[1].running_var - variance).abs().max()) > 1e-3


def test_dropout_is_off_and_update_bn_would_have_it_on(network, data):
    ours, twin, theirs = (copy.deepcopy(network) for _ in range(3))
    twin[3] = nn.Identity()
    for one in (ours, twin):
        reestimate_statistics(one, data, SIZE)
    close(ours[5].running_mean, twin[5].running_mean)
    update_bn([data[0]], theirs)
    close(theirs[1].running_mean, ours[1].running_mean)  # before the dropout the two agree
    assert float((theirs[5].running_mean - ours[5].running_mean).abs().max()) > 1e-3


def test_modes_momentum_weights_and_the_random_state_are_left_as_they_were(network, data):
    network.train()
    network[5].eval()
    modes = [module.training for module in network.modules()]
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    random = torch.get_rng_state()
    reestimate_statistics(network, data, 16)
    assert [module.training for module in network.modules()] == modes
    assert network[1].momentum == 0.3 and network[5].momentum is None
    assert all(torch.equal(weights[name], p) for name, p in network.named_parameters())
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_old_statistics_do_not_matter_and_the_result_is_the_same_each_time(network, data):
    other = copy.deepcopy(network)
    other[1].running_mean.fill_(float("nan"))
    torch.manual_seed(1)
    reestimate_statistics(network, data, 16)
    torch.manual_seed(2)
    reestimate_statistics(other, data, 16)
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, dict(other.named_buffers())[name])


def test_sorted_data_are_shuffled(network, data):
    x = data[0][:100].sort(dim=0).values
    seen = []
    handle = network[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    reestimate_statistics(network, (x, data[1][:100]), batch_size=10)
    handle.remove()
    assert not any(torch.equal(part, x[10 * i : 10 * i + 10]) for i, part in enumerate(seen))
    spread = torch.stack([part.mean() for part in seen]).std()
    assert float(spread) < 0.5 * float(torch.stack([part.mean() for part in x.split(10)]).std())


@pytest.mark.parametrize("kind", ["dataset", "loader"])
def test_data_sets_and_loaders_are_taken(network, data, kind):
    pairs = TensorDataset(*data)
    loader = DataLoader(pairs, 32)
    reestimate_statistics(network, pairs if kind == "dataset" else loader, SIZE)
    close(network[1].running_mean, statistics(network[0](data[0]))[0])


def test_a_layer_that_is_used_twice_averages_over_both_uses(data):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x):
            return self.norm(x), self.norm(3.0 * x + 1.0)

    network = Twice().double()
    reestimate_statistics(network, data, SIZE)
    mean, variance = statistics(torch.cat([data[0], 3.0 * data[0] + 1.0]))
    close(network.norm.running_mean, mean)
    close(network.norm.running_var, variance)


def test_without_running_statistics_there_is_nothing_to_do_and_no_pass(data):
    class Untouchable:
        def __iter__(self):
            raise AssertionError("the data were read")

        __len__ = __iter__

    for network in (nn.Linear(2, 2), nn.BatchNorm2d(2, track_running_stats=False)):
        assert reestimate_statistics(network, Untouchable()) == 0


def test_a_batch_of_one_vector_is_left_out_and_nothing_but_such_batches_is_told():
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), torch.randn(5, 3)
    assert reestimate_statistics(network, [(x[:4], x[:4]), (x[4:], x[4:])]) == 1
    torch.testing.assert_close(network[1].running_mean, network[0](x[:4]).mean(0).detach())
    assert network[1].num_batches_tracked == 1
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match="no batch of two examples or more"):
        reestimate_statistics(network, (x, x), batch_size=1)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_layers_without_statistics_and_layers_that_are_not_used_are_skipped(data):
    network = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False)).double()
    network[0].unused = nn.BatchNorm1d(5).double()
    network[0].unused.running_mean.fill_(7.0)
    assert reestimate_statistics(network, data) == 1
    assert bool((network[0].unused.running_mean == 7.0).all())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda x: x[:, :1], "does not take inputs of shape"),
        (lambda x: x / 0.0, "NaN or infinite"),
    ],
)
def test_bad_data_are_told_and_the_network_is_as_it_was(network, data, spoil, says):
    network.train()
    before = copy.deepcopy(network.state_dict())
    x = spoil(data[0])
    with pytest.raises(ValueError, match=says):
        reestimate_statistics(network, (x, data[1][: len(x)]))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.training and network[1].momentum == 0.3
    assert not any(module._forward_pre_hooks for module in network.modules())
