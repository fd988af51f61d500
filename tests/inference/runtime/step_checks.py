"""Checks of steps: loss, gradient and noise."""

from __future__ import annotations

import torch

from bayesprune.inference.runtime.share import Share
from tests.inference.runtime.many_processes import check
from tests.inference.runtime.problems import (
    KL_WEIGHT,
    SIZE,
    batches_of,
    fitted,
    gradient_of,
    gradients_of,
    history_of,
    objective_of,
    tensors_of,
)

CASES = [
    (prior, precision, execution, batch_size)
    for prior in ("HALO", "spike and slab", "Gaussian", "unit gates")
    for precision in ("float64", "float32")
    for execution, batch_size in (("plain", 17), ("plain", 16), ("fused", 17))
    if execution == "plain" or prior in ("HALO", "unit gates")
]
"""Of batches of 16 the last one has 5 examples, too few for three processes to share."""
PRIORS_APART = ("HALO", "unit gates")
FITS = ("HALO", "spike and slab", "unit gates")


@check(2, 3)
def steps_at_common_noise(make):
    """Losses and gradients of all cases."""
    found = {}
    for prior, precision, execution, batch_size in CASES:
        runtime = make(precision=precision, noise="common")
        with runtime.restart(5):
            objective = objective_of(runtime, prior)
            given = batches_of(runtime, batch_size), objective, runtime, execution
            found[prior, precision, execution, batch_size] = gradients_of(*given)
    return found


@check(3)
def steps_without_weights_of_shares(make):
    """A mistake: processes with fewer examples count as much as the others."""
    right, Share.weight = Share.weight, lambda self, size: 1.0
    try:
        runtime = make(noise="common")
        with runtime.restart(5):
            objective = objective_of(runtime, "HALO")
            return gradients_of(batches_of(runtime, 17), objective, runtime)
    finally:
        Share.weight = right


@check(2)
def steps_with_the_size_of_a_share(make):
    """A mistake: each process takes its share of the data for all of the data."""
    runtime = make(noise="common")
    with runtime.restart(5):
        objective = objective_of(runtime, "HALO", data_size=SIZE // runtime.world)
        return gradients_of(batches_of(runtime, 17), objective, runtime)


@check(2, 3)
def whole_fits_at_common_noise(make):
    """Parameters and records of fits in which all processes draw alike."""
    return {prior: whole(fitted(make(noise="common"), prior)) for prior in FITS}


@check(2, 3)
def whole_fits(make):
    """The same with noise apart."""
    return {prior: whole(fitted(make(), prior)) for prior in FITS}


def whole(fit):
    return tensors_of(fit), history_of(fit)


@check(2, 3)
def steps_at_noise_apart(make):
    """Gradients, and the states from which each process drew them, and torch's own before and after each step."""
    return {prior: steps_noted(make(), prior) for prior in PRIORS_APART}


@check(2)
def steps_at_noise_of_one_rank(make):
    """A mistake: all draw as the first process does."""
    runtime = make()
    runtime.rank = 0
    return steps_noted(runtime, "HALO")


def steps_noted(runtime, prior):
    states, outside = [], []
    with runtime.restart(5):
        objective = objective_of(runtime, prior, one_mask=False)
        noise = runtime.noise

        def noted(step):
            inside = noise(step)
            return Noted(inside, states)

        runtime.noise = noted
        batches = batches_of(runtime, 17)
        outside.append(torch.get_rng_state())
        losses, gradients = gradients_of(batches, objective, runtime)
        outside.append(torch.get_rng_state())
        drawn = torch.randn(4)
    return {"states": states, "outside": outside, "losses": losses, "gradients": gradients, "drawn": drawn}


class Noted:
    """Keeps the state from which numbers are drawn inside."""

    def __init__(self, inside, states):
        self.inside, self.states = inside, states

    def __enter__(self):
        self.inside.__enter__()
        self.states.append(torch.get_rng_state())

    def __exit__(self, *problem):
        return self.inside.__exit__(*problem)


def gradients_one_by_one(make, prior, states):
    """An oracle in one process: each process's loss at its own noise and on its own examples, averaged by how many.

    Args:
        make: Makes the runtime.
        prior: Name of the prior.
        states: Of each process, the states of its generator in the steps.
    """
    runtime, world = make(), len(states)
    losses, gradients = [], []
    with runtime.restart(5):
        objective = objective_of(runtime, prior, one_mask=False)
        whole = batches_of(runtime, 17)
        for step, (x, y) in enumerate(whole):
            loss, gradient = 0.0, 0.0
            rows = torch.arange(len(x)).tensor_split(world)  # the first ones get one more
            for rank in range(world):
                part, mine = len(rows[rank]) / len(x), (x[rows[rank]], y[rows[rank]])
                objective.zero_grad()
                torch.set_rng_state(states[rank][step])
                likelihood = objective.terms(*mine, 0.0).loss
                torch.set_rng_state(states[rank][step])
                divergence = objective.terms(*mine, KL_WEIGHT).loss - likelihood
                # The likelihood counts by the examples, the KL term of each process's draw as much as of another.
                value = divergence / world + part * likelihood
                (value / SIZE).backward()
                loss, gradient = loss + float(value.detach()), gradient + gradient_of(objective)
            losses.append(loss)
            gradients.append(gradient)
    return torch.tensor(losses, dtype=torch.float64), torch.stack(gradients)
