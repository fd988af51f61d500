"""The magnitude baselines prune exactly what they say, when they say it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import magnitude


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 12, generator=generator)
    return x, (x[:, :3] @ torch.randn(3, 4, generator=generator)).argmax(1)


def small(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


def zeros(network: nn.Module) -> int:
    return sum(int((w == 0).sum()) for w in magnitude.weight_matrices(network).values())


def magnitudes(network: nn.Module) -> torch.Tensor:
    return torch.cat([w.detach().abs().flatten() for w in magnitude.weight_matrices(network).values()])


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.95, 0.99])
def test_one_shot_zeroes_exactly_the_smallest_weights_and_no_bias(sparsity: float) -> None:
    network = small()
    before = magnitudes(network)
    pruned = magnitude.one_shot(network, sparsity)
    after = magnitudes(pruned.network)
    count = round(sparsity * 256)
    assert zeros(pruned.network) == count and zeros(network) == 0
    assert sum(int((~mask).sum()) for mask in pruned.masks.values()) == count
    assert pruned.sparsity == pytest.approx(count / 256)
    kept = after > 0
    assert torch.equal(after[kept], before[kept])
    assert count == 0 or before[~kept].max() <= before[kept].min()
    for name, parameter in pruned.network.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(parameter, dict(network.named_parameters())[name])


def test_ties_are_pruned_in_order_of_index() -> None:
    network = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3))
    with torch.no_grad():
        for weight in magnitude.weight_matrices(network).values():
            weight.fill_(0.5)
    pruned = magnitude.one_shot(network, 9 / 14)
    flat = torch.cat([mask.flatten() for mask in pruned.masks.values()])
    assert flat.tolist() == [False] * 9 + [True] * 5


def test_the_cubic_schedule_starts_at_zero_rises_and_ends_at_the_final_sparsity() -> None:
    values = [magnitude.cubic_sparsity(step, 10, 50, 0.9) for step in range(61)]
    assert values[:11] == [0.0] * 11 and values[50:] == [0.9] * 11
    assert all(a < b for a, b in zip(values[10:50], values[11:51], strict=True))
    assert values[30] == pytest.approx(0.9 * (1 - 0.5**3))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("sparsity", "every", "end"), [(0.9, 7, 0.7), (0.95, 10, 1.0), (0.5, 1000, 0.5)])
def test_gradual_pruning_ends_exactly_as_sparse_as_asked(
    data: tuple[torch.Tensor, torch.Tensor], optimizer: str, sparsity: float, every: int, end: float
) -> None:
    settings = magnitude.Settings(epochs=4, optimizer=optimizer, learning_rate=0.05, batch_size=16)
    trained = magnitude.train_gradual(*data, sparsity, settings, small(), end=end, every=every)
    assert zeros(trained.network) == round(sparsity * 256)
    for name, weight in magnitude.weight_matrices(trained.network).items():
        assert torch.equal(weight != 0, trained.masks[name])


def test_masked_weights_stay_at_zero_and_masks_only_shrink(
    data: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    nonzero: list[int] = []
    original = magnitude.global_masks

    def spy(*arguments: object) -> dict[str, torch.Tensor]:
        seen.append(original(*arguments))  # type: ignore[arg-type]
        return seen[-1]

    def look(module: nn.Module, inputs: object) -> None:
        # Each forward pass must see the masks of the latest update: count masked weights that are not zero.
        if isinstance(module, nn.Sequential) and seen:
            weights = magnitude.weight_matrices(module)
            nonzero.append(sum(int((weights[name][~mask] != 0).sum()) for name, mask in seen[-1].items()))

    monkeypatch.setattr(magnitude, "global_masks", spy)
    settings = magnitude.Settings(epochs=4, learning_rate=0.05, batch_size=16, schedule="constant")
    hook = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        magnitude.train_gradual(*data, 0.9, settings, small(), every=3)
    finally:
        hook.remove()
    assert len(seen) > 5 and len(nonzero) > 20 and not any(nonzero)
    dropped = [sum(int((~mask).sum()) for mask in masks.values()) for masks in seen]
    assert dropped == sorted(dropped) and dropped[0] > 0 and dropped[-1] == round(0.9 * 256)
    for earlier, later in zip(seen, seen[1:], strict=False):
        assert all(not (later[name] & ~earlier[name]).any() for name in earlier)


def test_a_run_of_one_step_is_still_pruned(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    settings = magnitude.Settings(epochs=1, batch_size=200)
    assert zeros(magnitude.train_gradual(*data, 0.9, settings, small()).network) == round(0.9 * 256)


def test_dense_training_learns_is_reproducible_and_leaves_the_start_alone(
    data: tuple[torch.Tensor, torch.Tensor],
) -> None:
    network = small()
    start = [p.detach().clone() for p in network.parameters()]
    settings = magnitude.Settings(epochs=30, learning_rate=0.1, batch_size=32)
    first = magnitude.train_dense(*data, settings, network)
    again = magnitude.train_dense(*data, settings, network)
    assert first.accuracy(*data) > 0.9 and first.sparsity == 0.0
    for a, b in zip(first.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(start, network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gradual_pruning_to_zero_sparsity_is_dense_training(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    settings = magnitude.Settings(epochs=3, batch_size=32)
    dense = magnitude.train_dense(*data, settings, small())
    gradual = magnitude.train_gradual(*data, 0.0, settings, small())
    pruned = magnitude.train_gradual(*data, 0.5, settings, small())
    pairs = list(zip(dense.network.parameters(), gradual.network.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = list(zip(dense.network.parameters(), pruned.network.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_gradual_pruning_by_layer_leaves_exactly_so_many_of_each(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    left = {"0.weight": 17, "2.weight": 40}
    settings = magnitude.Settings(epochs=4, batch_size=20)
    found = magnitude.train_gradual(*data, 0.5, settings, network=small(), every=3, layers=left)
    counts = {name: int((w != 0).sum()) for name, w in magnitude.weight_matrices(found.network).items()}
    assert counts == left == {name: int(mask.sum()) for name, mask in found.masks.items()}
    alike = magnitude.train_gradual(*data, 1.0 - 57 / 256, settings, network=small(), every=3)
    assert zeros(alike.network) == zeros(found.network)  # control: globally as many, but others
    assert {name: int(mask.sum()) for name, mask in alike.masks.items()} != left
    empty = magnitude.train_gradual(*data, 0.5, settings, network=small(), layers={"0.weight": 0, "2.weight": 64})
    assert {name: int(mask.sum()) for name, mask in empty.masks.items()} == {"0.weight": 0, "2.weight": 64}


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_schedules_start_at_one_and_never_rise(schedule: str) -> None:
    factors = [magnitude._rate_factor(schedule, step, 40) for step in range(40)]
    assert factors[0] == 1.0 and all(a >= b for a, b in zip(factors, factors[1:], strict=False))
    assert factors[-1] == pytest.approx({"constant": 1.0, "cosine": 0.0015, "step": 0.01}[schedule], abs=1e-3)


def test_the_default_network_is_lenet_300_100_and_follows_the_seed() -> None:
    assert sum(p.numel() for p in magnitude.lenet_300_100().parameters()) == 266_610
    weights = [magnitude.lenet_300_100(seed=seed).fc1.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_wrong_arguments_are_refused_in_one_sentence(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="fraction in"):
        magnitude.one_shot(small(), 1.0)
    with pytest.raises(ValueError, match="expected sgd or adam"):
        magnitude.Settings(optimizer="sdg")
    with pytest.raises(ValueError, match="start"):
        magnitude.train_gradual(*data, 0.9, start=0.8, end=0.2)
    with pytest.raises(ValueError, match="fraction in"):
        magnitude.train_gradual(*data, 1.5)
