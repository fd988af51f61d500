"""Which weights go and come, against all subsets; draws at a temperature against all orders."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from bayesprune.inference.masks.exchange import exchanged, grown, grown_of_all, kept, kept_of_all, resized
from tests.oracles.sparse_training import best_subset, odds_of_subsets


def places(mask):
    return set(mask.flatten().nonzero().flatten().tolist())


def problem(seed, size=9):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(size, generator=generator).view(3, 3) < 0.6
    mask[0, 0], mask[2, 2] = True, False
    return mask, torch.randn(3, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(12))
def test_kept_and_grown_are_the_best_of_all_subsets(seed):
    mask, scores = problem(seed)
    flat, there = scores.flatten().tolist(), places(mask)
    for count in range(len(there) + 1):
        assert places(kept(mask, scores, count)) == best_subset(flat, sorted(there), count)
    out = set(range(9)) - there
    for count in range(len(out) + 1):
        assert places(grown(mask, scores, count)) == there | best_subset(flat, sorted(out), count)
    wrong = best_subset([-score for score in flat], sorted(there), 1)
    assert places(kept(mask, scores, 1)) != wrong or len(there) == 1  # control: not the lowest


@pytest.mark.parametrize("seed", range(6))
def test_an_exchange_lets_the_lowest_go_and_the_highest_of_all_others_come(seed):
    masks, scores = {"a": problem(seed)[0], "b": problem(seed + 50)[0]}, {}
    drop = {"a": problem(seed + 100)[1], "b": problem(seed + 150)[1]}
    scores = {"a": problem(seed + 200)[1], "b": problem(seed + 250)[1]}
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    comes = {"a": 1, "b": min(2, counts["b"], 9 - counts["b"])}
    found = exchanged(masks, counts, comes, drop, scores)
    for name, mask in masks.items():
        stays = best_subset(drop[name].flatten().tolist(), sorted(places(mask)), counts[name] - comes[name])
        free = sorted(set(range(9)) - stays)
        assert places(found[name]) == stays | best_subset(scores[name].flatten().tolist(), free, comes[name])


@pytest.mark.parametrize("seed", range(6))
def test_of_the_whole_network_the_best_are_kept_and_one_a_tensor(seed):
    masks = {"a": problem(seed)[0], "b": problem(seed + 50)[0]}
    scores = {"a": problem(seed + 100)[1], "b": problem(seed + 150)[1] - 10.0}  # all of b are worse than all of a
    flat = [*scores["a"].flatten().tolist(), *scores["b"].flatten().tolist()]
    there = places(masks["a"]) | {9 + one for one in places(masks["b"])}
    best_b = max((one for one in there if one >= 9), key=lambda one: flat[one])
    for total in range(2, len(places(masks["a"])) + 1):
        found = kept_of_all(masks, scores, total)
        chosen = places(found["a"]) | {9 + one for one in places(found["b"])}
        assert chosen == best_subset(flat, sorted(there - {best_b}), total - 1) | {best_b}
        assert chosen != best_subset(flat, sorted(there), total)  # control: without the one of each tensor
    out = sorted(set(range(18)) - there)
    for more in range(len(out) + 1):
        found = grown_of_all(masks, scores, more)
        chosen = places(found["a"]) | {9 + one for one in places(found["b"])}
        assert chosen == there | best_subset(flat, out, more)


def test_sizes_change_as_is_wanted_in_every_layer_or_in_all():
    masks = {"a": problem(1)[0], "b": problem(2)[0]}
    drop, grow = ({name: problem(seed + i)[1] for i, name in enumerate(masks)} for seed in (10, 20))
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    wanted = {"a": counts["a"] - 1, "b": counts["b"] + 2}
    found = resized(masks, counts, wanted, drop, grow)
    assert {name: int(mask.sum()) for name, mask in found.items()} == wanted
    assert places(found["a"]) < places(masks["a"]) and places(found["b"]) > places(masks["b"])
    free = resized(masks, counts, wanted, drop, grow, is_free=True)
    assert sum(int(mask.sum()) for mask in free.values()) == sum(wanted.values())
    less = resized(masks, counts, {"a": 1, "b": 2}, drop, {}, is_free=True)
    assert sum(int(mask.sum()) for mask in less.values()) == 3
    same = resized(masks, counts, counts, drop, {}, is_free=True)
    assert all(torch.equal(same[name], masks[name]) for name in masks)


@pytest.mark.parametrize("odd", [-math.inf, math.inf, math.nan])
def test_counts_are_exact_whatever_the_scores_are(odd):
    mask, scores = problem(3)
    scores[mask] = odd
    for count in range(int(mask.sum()) + 1):
        chosen = kept(mask, scores, count)
        assert int(chosen.sum()) == count and not bool((chosen & ~mask).any())


def test_nan_is_below_every_number():
    mask, scores = torch.ones(2, 2, dtype=torch.bool), torch.tensor([[math.nan, -5.0], [1.0, 0.0]])
    assert places(kept(mask, scores, 3)) == {1, 2, 3}


def test_of_equal_scores_any_are_chosen_and_others_before_them():
    torch.manual_seed(0)
    mask, scores = torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, 5)
    scores[1, 4] = 1.0
    seen = Counter(one for _ in range(900) for one in places(kept(mask, scores, 4)))
    assert seen[9] == 900
    assert all(abs(seen[one] - 900 * 3 / 9) < 5 * math.sqrt(900 * (1 / 3) * (2 / 3)) for one in range(9))
    scores[0, :3] = 0.5  # control: with no tie at the last place nothing is random
    state = torch.get_rng_state()
    assert places(kept(mask, scores, 4)) == {0, 1, 2, 9}
    assert torch.equal(torch.get_rng_state(), state)


def off(seen, wanted, draws):
    """The largest distance of a frequency, in standard errors."""
    return max(
        abs(seen[chosen] / draws - odds) / math.sqrt(odds * (1.0 - odds) / draws) for chosen, odds in wanted.items()
    )


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_at_a_temperature_weights_are_drawn_without_replacement(temperature):
    torch.manual_seed(1)
    scores = torch.tensor([[0.2, -1.0, 0.9], [0.0, 1.4, 5.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    among, draws = [0, 1, 2, 3, 4], 1000
    for count in (1, 2):
        weights = [math.exp(float(scores.flatten()[one]) / temperature) for one in among]
        wanted = odds_of_subsets(weights, count)
        assert sum(wanted.values()) == pytest.approx(1.0)
        seen = Counter(frozenset(places(kept(mask, scores, count, temperature))) for _ in range(draws))
        assert set(seen) <= set(wanted)
        assert off(seen, wanted, draws) < 4.5
        other = odds_of_subsets([weight**2.0 for weight in weights], count)
        assert off(seen, other, draws) > 4.5  # control: a temperature that is nearly right
    seen = Counter(frozenset(places(grown(~mask, scores, 2, temperature)) - {5}) for _ in range(draws))
    assert (
        off(seen, odds_of_subsets([math.exp(float(scores.flatten()[one]) / temperature) for one in among], 2), draws)
        < 4.5
    )


def test_so_are_those_of_the_whole_network():
    torch.manual_seed(2)
    masks = {"a": torch.ones(2, dtype=torch.bool), "b": torch.ones(2, dtype=torch.bool)}
    scores = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([0.5, -0.5])}
    draws = 1000
    seen = Counter(bool(kept_of_all(masks, scores, 2, 1.0)["a"][0]) for _ in range(draws))
    odds = 1.0 / (1.0 + math.e)  # one a tensor: the best of two with noise
    assert off(seen, {True: odds, False: 1.0 - odds}, draws) < 4.5
    free = {"a": ~masks["a"], "b": ~masks["b"]}
    weights = [math.exp(score) for score in (0.0, 1.0, 0.5, -0.5)]
    drawn = Counter()
    for _ in range(draws):
        found = grown_of_all(free, scores, 2, 1.0)
        drawn[frozenset(places(found["a"]) | {2 + one for one in places(found["b"])})] += 1
    assert off(drawn, odds_of_subsets(weights, 2), draws) < 4.5
