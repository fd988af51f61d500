"""Three ways to the same kind of fit: `bp.fit`, a loop in plain torch, and Pyro's SVI, the last two by `Fit.of`."""

from __future__ import annotations

import copy

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO

import bayesprune as bp

WAYS = ("fit", "torch", "svi")


def fit_by(way, bnn, data, guide=None, *, steps=None, epochs=1, batch_size=128, learning_rate=1e-3, **more):
    """What `bp.fit` takes for tensors in memory; the two loops know no other settings than these, and restarts."""
    if way == "fit":
        length = {"epochs": epochs} if steps is None else {"steps": steps}
        return bp.fit(bnn, data, guide, batch_size=batch_size, learning_rate=learning_rate, **length, **more)
    restarts, recorded = more.pop("restarts", 1), more.pop("recorded", True)
    assert set(more) <= {"device"}
    trained = [trained_by(way, bnn, data, guide, steps, epochs, batch_size, learning_rate) for _ in range(restarts)]
    objectives, records = zip(*trained, strict=True)
    return bp.Fit.of(list(objectives), data, list(records) if recorded else None)


def trained_by(way, bnn, data, guide=None, steps=None, epochs=1, batch_size=128, learning_rate=1e-3):
    """The objective after a loop of one's own, and its record."""
    bnn, (x, y) = copy.deepcopy(bnn), data
    loss = bp.objective(bnn, guide)
    parts = [part for part in range(0, len(x), batch_size)]
    steps = epochs * len(parts) if steps is None else steps
    if way == "torch":
        optimizer = torch.optim.Adam(loss.parameters(), learning_rate)
        record = bp.Record(loss, optimizer)
    else:
        svi = SVI(bnn, loss.guide, pyro.optim.Adam({"lr": learning_rate}), Trace_ELBO())
        record = bp.Record(loss)
    for step in range(steps):
        at = parts[step % len(parts)]
        batch = x[at : at + batch_size], y[at : at + batch_size]
        if way == "torch":
            optimizer.zero_grad()
            loss(*batch).backward()
            optimizer.step()
            record.step()
        else:
            record.step(svi.step(*batch))
        if (step + 1) % len(parts) == 0 or step + 1 == steps:
            record.epoch()
    return loss, record
