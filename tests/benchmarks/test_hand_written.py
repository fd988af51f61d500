"""The three hand-written loops minimise one objective, and the hand-written derivatives are right."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from benchmarks import hand_written


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(32, 784, generator=generator), torch.randint(10, (32,), generator=generator)


def test_the_network_has_the_stated_number_of_parameters() -> None:
    assert hand_written.PARAMETERS == 266_610


def test_the_three_losses_agree_in_expectation(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.manual_seed(0)
    draws = {}
    for name, build in hand_written.LOOPS.items():
        loop = build()
        draws[name] = torch.stack([loop.loss(*batch).detach() for _ in range(120)])
    means = {name: values.double().mean().item() for name, values in draws.items()}
    errors = {name: values.double().std().item() / math.sqrt(len(values)) for name, values in draws.items()}
    for name in ("flat", "local_reparameterisation"):
        error = math.hypot(errors[name], errors["per_tensor"])
        assert abs(means[name] - means["per_tensor"]) < 5.0 * error
    # The KL is not within that error: a loop without it would be noticed.
    loc, log_scale = hand_written.Flat().flat_parameters()
    kl = kl_divergence(Normal(loc, log_scale.exp()), Normal(torch.zeros(()), torch.tensor(0.1))).sum().item()
    assert kl > 10.0 * max(errors.values())


def test_flat_makes_the_gradients_that_autograd_makes(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = batch
    loop = hand_written.Flat()
    torch.manual_seed(1)
    loss = loop.loss_and_gradients(x, y)
    loc, log_scale = (t.requires_grad_() for t in loop.flat_parameters())
    weights = loc + log_scale.exp() * loop.noise
    nll = torch.nn.functional.cross_entropy(hand_written.logits(hand_written.split(weights), x), y)
    kl = kl_divergence(Normal(loc, log_scale.exp()), Normal(torch.zeros(()), torch.tensor(0.1))).sum()
    wanted = 60_000 * nll + kl
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(loop.loc.grad, loc.grad, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(loop.log_scale.grad, log_scale.grad, rtol=1e-4, atol=1e-2)
    assert not torch.allclose(loop.loc.grad, loc.grad - loc.detach() / 0.1**2, rtol=1e-4, atol=1e-2)


def test_local_reparameterisation_makes_the_gradients_that_autograd_makes(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    x, y = batch
    loop = hand_written.LocalReparameterisation()
    torch.manual_seed(1)
    loss = loop.loss_and_gradients(x, y)
    loc, log_scale = (t.requires_grad_() for t in loop.flat_parameters())
    means, variances = hand_written.split(loc), hand_written.split((2.0 * log_scale).exp())
    torch.manual_seed(1)
    h = x
    for layer in (0, 2, 4):
        variance = h**2 @ variances[layer].T + variances[layer + 1]
        h = h @ means[layer].T + means[layer + 1] + variance.sqrt() * torch.randn(variance.shape)
        h = h.relu() if layer < 4 else h
    kl = kl_divergence(Normal(loc, log_scale.exp()), Normal(torch.zeros(()), torch.tensor(0.1))).sum()
    wanted = 60_000 * torch.nn.functional.cross_entropy(h, y) + kl
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(loop.loc.grad, loc.grad, rtol=1e-4, atol=2e-2)
    torch.testing.assert_close(loop.log_scale.grad, log_scale.grad, rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize("name", list(hand_written.LOOPS))
def test_each_loop_lowers_its_loss(name: str, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.manual_seed(0)
    loop = hand_written.LOOPS[name]()
    losses = [loop.step(*batch).item() for _ in range(40)]
    assert losses[-1] < losses[0] - 1e4


def test_main_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        medians = hand_written.main(["--threads", "1", "--blocks", "1", "--steps", "1"])
    finally:
        torch.set_num_threads(threads)
    assert set(medians) == set(hand_written.LOOPS) and all(value > 0 for value in medians.values())
    assert '"ms_per_step"' in capsys.readouterr().out
