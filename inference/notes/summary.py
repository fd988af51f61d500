"""The summary of a fit: plain numbers and strings, ready for JSON."""

from __future__ import annotations

from typing import Any

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.left_in import left_in
from bayesprune.inference.guides.registry import has_density
from bayesprune.inference.notes.emptied_layers import collapsed_layers
from bayesprune.inference.notes.findings import findings
from bayesprune.inference.predictions.draw_statistics import statistics_in_words
from bayesprune.inference.watching.endings import ending_in_words, endings_of


def summarise(fit: Fitted) -> dict[str, Any]:
    """Returns what a fit was and came to.

    Keys: those of `Fit.settings` (guide, epochs, steps, batch_size, learning_rate, optimizer, schedule, kl_warmup,
    seed, precision, device, seconds, tempered, execution, standardised, of stopped_early a sentence each; of a refit
    `refit`, how its structure was chosen; of a loop of one's own `own_loop`, and None for what nobody has told);
    ``restarts``, ``seeds``, ``data_size``, ``likelihood``, ``learned_likelihood`` (with what it has learned);
    ``priors`` (printed, by tensor), ``guide_families`` (by site), ``point_estimates``,
    ``notes`` (sentences; on what is wrong with the fit those of `bayesprune.inference.notes.findings`);
    ``batch_normalisation`` (whose statistics predictions have, in a sentence, or None); ``kinds`` of
    inclusion events; ``weights`` and ``nonzero`` (of tensors with a prior; exact zeros of E[weight | included], or
    weights out of the median-probability model, do not count), ``sparsity`` (1 - nonzero / weights), ``collapsed``
    (tensors whose inclusion probabilities all fell below 1/2); ``elbo``, ``expected_log_likelihood`` and ``kl``, means
    of the last epoch in full-data nats, the first None for a fit with points or an improper prior.
    """
    one = fit.restarts[0]
    model, guide = one.model, one.guide
    last = fit.trace.isel(restart=0).dropna("epoch", how="all", subset=["loss"]).isel(epoch=-1)
    weights = sum(model.declared_sizes.values())
    nonzero = sum(int(left.sum()) for left in left_in(guide).values())
    has_points = any(not has_density(family) for family in guide.family_of.values())
    improper = any(prior.hierarchy.improper for prior in model.priors.values())
    kl, likelihood = float(last["kl"]), float(last["expected_log_likelihood"])
    stopped = (
        {"stopped_early": [ending_in_words(one) for one in endings_of(fit.settings)]}
        if "stopped_early" in fit.settings
        else {}
    )
    return {
        **fit.settings,
        **stopped,
        "guide": fit.settings.get("guide") or "default",
        "restarts": len(fit.restarts),
        "seeds": [restart.seed for restart in fit.restarts],
        "data_size": model.data_size,
        "likelihood": model.likelihood.config(),
        "learned_likelihood": model.likelihood.learned_config(),
        "priors": {name: repr(prior.hierarchy) for name, prior in model.priors.items()},
        "guide_families": dict(guide.family_of),
        "point_estimates": list(model.point_estimates),
        "notes": [*guide.notes, *_note(fit.settings), *findings(fit)],
        "batch_normalisation": statistics_in_words(fit),
        "kinds": sorted({p.hierarchy.included.kind for p in model.priors.values() if p.hierarchy.included is not None}),
        "weights": weights,
        "nonzero": nonzero,
        "sparsity": 1.0 - nonzero / weights,
        "collapsed": collapsed_layers(fit),
        "elbo": None if has_points or improper else likelihood - kl,
        "expected_log_likelihood": likelihood,
        "kl": kl,
    }


def _note(settings: dict[str, Any]) -> list[str]:
    """A sentence where a regression could not be standardised."""
    found = settings.get("standardised", {}).get("note")
    return [] if found is None else [str(found)]
