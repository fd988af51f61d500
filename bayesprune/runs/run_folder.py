"""Run folders: a fit on disk, with what it was asked for and what it came to.

    RUN/summary.json             what was fitted, and how good it is
    RUN/fit.json                 settings, the declaration and its fingerprints (of `Fit.save`)
    RUN/restart-0.safetensors    guide, point estimates, buffers; one file a restart (of `Fit.save`)
    RUN/trace.nc                 the pruning trace (of `Fit.save`)
    RUN/arviz.nc                 what ArviZ reads
    RUN/plots/*.png              where asked for
    RUN.part                     while it is being fitted, the trace so far (see part_folder.py)

Keys of summary.json (null where something does not apply; counts are of the weights with a prior):

    version, created             of bayesprune; ISO date and time of the end of the run
    network_parts                what the recipe changed of the network: ``shared_blocks``, ``dyrelu``
    data, data_root, data_seed   name or path; folder it was looked for in; seed of the validation split
    network, network_settings, width, prior, prior_settings, on,
    input_shape, outputs, data_size, likelihood, starting_weights     the model
    guide, guide_families        ``"map"``, ``"meanfield"``, ``"paired"``, ``"mixed"``; each site's family
    epochs, steps, batch_size, learning_rate, optimizer, schedule,
    kl_warmup, kl_weight, particles, precision, device      how it was fitted
    processes                    how many processes fitted together, in the last call
    kl_warmups                   the share of each restart, where they differ
    chosen                       which of steps, kl_weight and kl_warmup the fit chose by rule
    clip, local_reparameterisation, sticking_the_landing    options of the gradient
    outputs_drawn                names of the weights whose layers drew their outputs
    resumed_at_epoch             the first epoch that the last call trained, if earlier ones were interrupted
    data_sketch, scaling_sketch    of the training data, and of what they were standardised by
    stopped_early                a sentence for each restart that was ended before its last step
    warm_start                   whether it began at an earlier fit
    tuned                        the trials of --tune, one object each; whose values were chosen
    gating_settings, gating      how gates of units were trained, as asked; what came of it, one object a restart
    budget_settings, budget      the budget as asked; what came of it, one object a restart: ``kind``, ``asked`` and
                                 ``reached`` (shares), their counts of ``whole``, ``counted`` (rule by tensor),
                                 ``knobs`` (start and end), ``landing`` (the last correction)
    recipe, recipe_settings      of sparse training, as asked (--recipe, --recipe-set); its density is the budget's
    masks                        what came of its masks, one object a restart: ``asked_count`` and ``reached_count`` of
                                 ``whole`` weights (``virtual``, where layers share some), ``updates``, ``exchanged``
                                 weights, ``layers`` (weights in, by tensor)
    refit_settings, refit        of a run that bayesprune refit made, as asked; what came of it, one object a restart:
                                 ``gates`` (how the weights were chosen), how many are ``kept`` ``of`` all, ``layers``,
                                 which tensors are held ``by_gates`` and ``by_masks``, and ``from`` which restart
    forms                        of a refit: test scores ``before`` and ``after`` of the forms ``averaged``, ``drawn``
                                 and ``means``, of one restart (`bayesprune.score_forms`)
    seconds, seeds, restarts     of the fit alone; one seed a restart
    execution                    how the first restart's steps were executed, why, and what compiling cost
    tempered                     whether the final weight of the KL term was not 1
    constant_log_likelihood      of the best constant prediction of the training targets, in nats per example
    standardised                 whether inputs and targets of a regression were standardised inside, where its noise
                                 began, and why
    correlated_inputs            the inputs of a regression that correlate most, one object a restart
    learned_likelihood           the likelihood with what it has learned, such as the scale of the noise
    test_accuracy, test_rmse, nll, ece       on the test data; nll in nats per example, ece with 15 bins
    test_coverage_50, test_coverage_90       of a regression: shares of targets in their predictive intervals
    validation_accuracy, validation_rmse, validation_nll, validation_ece,
    validation_coverage_50, validation_coverage_90     on the validation data
    per_restart                  one object a restart: its seed, and the scores as test_... and validation_...
    weights, nonzero, sparsity   of the first restart: how many weights, how many are in the network (for
                                 gates those of the median-probability model, else those that are not
                                 exactly zero, which for a MAP is nearly always all), 1 - nonzero / weights
    units, branches              with gates of units, of the first restart: ``of`` how many units of each set (residual
                                 branches) that have a gate, and how many are ``left``, with a probability above 1/2
    kinds                        kinds of inclusion event: ``"atom"``, ``"shrinkage"``, ``"relative"``, ...
    median_probability_nonzero, median_probability_sparsity      weights with inclusion probability above 1/2
    undecided                    share of inclusion probabilities strictly between 0.05 and 0.95
    elbo, expected_log_likelihood, kl        means of the last epoch, in nats of the full training data
    converged, convergence       ``"converged"``, ``"not converged"`` or ``"cannot tell"``; the reason
    point_estimates, priors      parameters without a prior; printed priors by tensor
    notes, collapsed             remarks, on what is wrong with the fit too; tensors without a PIP above 1/2
    batch_normalisation          whose statistics the scores are with; null where the network tracks none

Scores are those of single restarts, each averaged over draws of its weights (one for a MAP); with several
restarts the top-level score is the mean of theirs, not the score of an ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesprune.models.checks.renamed_arguments import by_new_names
from bayesprune.models.files.json_file import damaged, need, read_json, write_json
from bayesprune.models.files.places import expanded

if TYPE_CHECKING:  # `compare` reads summaries without waiting for PyTorch
    from bayesprune.data.sets import DataSplits
    from bayesprune.inference.fit_result import Fit

__all__ = [
    "ARVIZ_FILE",
    "PLOTS_FOLDER",
    "SUMMARY_FILE",
    "check_declared",
    "data_of",
    "load_run",
    "read_summary",
    "run_data",
    "write_rest",
]

SUMMARY_FILE, ARVIZ_FILE, PLOTS_FOLDER = "summary.json", "arviz.nc", "plots"
ARVIZ_DRAWS = 200
"""Draws of the first restart that arviz.nc holds."""
_REMEDY = "fit again, or restore the file"
_TEXT, _NUMBER, _OBJECT = (str, type(None)), (float, type(None)), (dict, type(None))
_NEEDED: dict[str, Any] = {
    "version": str, "data": str, "data_root": _TEXT, "data_seed": int, "data_size": int, "input_shape": list,
    "outputs": int, "network": str, "prior": str, "prior_settings": dict, "on": list, "likelihood": dict,
    "guide": object, "epochs": int, "seconds": float, "seeds": list, "restarts": int, "test_accuracy": _NUMBER,
    "test_rmse": _NUMBER, "nll": _NUMBER, "ece": _NUMBER, "weights": int, "nonzero": int, "sparsity": float,
    "median_probability_sparsity": _NUMBER, "undecided": _NUMBER, "kinds": list, "tempered": bool, "elbo": _NUMBER,
    "converged": str, "convergence": str, "point_estimates": list, "notes": list, "collapsed": list,
}  # fmt: skip
_LATER: dict[str, Any] = {
    "width": float, "execution": dict, "units": _OBJECT, "branches": _OBJECT, "tuned": (list, type(None)),
    "correlated_inputs": (list, type(None)),
    "test_coverage_50": _NUMBER, "test_coverage_90": _NUMBER, "standardised": _OBJECT, "learned_likelihood": dict,
    "network_settings": dict,
}  # fmt: skip
"""Keys that runs of earlier versions do not have."""
_DECLARED = (
    "data", "data_root", "data_seed", "data_size", "input_shape", "outputs", "network", "prior", "prior_settings", "on",
)  # fmt: skip
_LISTS: dict[str, Any] = {
    "input_shape": int, "on": str, "seeds": int, "kinds": str, "point_estimates": str, "notes": str, "collapsed": str,
}  # fmt: skip
"""What the lists are of."""


# ------------------------------------------------------------------------------------------------ writing


def write_rest(folder: Path, fit: Fit, summary: dict[str, Any]) -> None:
    """Writes what a run folder has besides its fit; the summary last.

    Args:
        folder: The folder, which holds the fit, absolute.
        fit: The fit.
        summary: What `summarise_run` returned.

    Raises:
        OSError: If something cannot be written.
    """
    from bayesprune.analysis.arviz.to_arviz import data_tree
    from bayesprune.models.files.netcdf_file import write_netcdf

    write_netcdf(data_tree(fit, draws=ARVIZ_DRAWS), folder / ARVIZ_FILE)
    write_json(folder / SUMMARY_FILE, summary)


# ------------------------------------------------------------------------------------------------ reading


def read_summary(path: str | Path) -> dict[str, Any]:
    """Reads RUN/summary.json.

    Raises:
        ValueError: If it is no run folder, or the file is damaged.
    """
    path = expanded(path)
    file = path / SUMMARY_FILE
    if not path.is_dir():
        raise ValueError(f"there is no run folder {path}: make one with bayesprune fit --out {path}")
    if not file.is_file():
        raise ValueError(f"{path} is no run folder: it has no {SUMMARY_FILE}")
    found = by_new_names(read_json(file, _REMEDY))
    missing = [key for key in _NEEDED if key not in found]
    if missing:
        raise ValueError(f"{file} is no summary of a run: it lacks {', '.join(missing[:3])}")
    need(file, found, {**_NEEDED, **{key: kinds for key, kinds in _LATER.items() if key in found}}, _REMEDY)
    _need_lists(file, found, _REMEDY)
    need(file, found["likelihood"], {"name": str}, _REMEDY)
    for key in ("units", "branches"):
        for row in (found.get(key) or {}).values():
            if not isinstance(row, dict):
                raise damaged(file, f"{key} holds what is no object", _REMEDY)
            need(file, row, {"of": int, "left": int}, _REMEDY)
    return found


def check_declared(file: Path, found: Mapping[str, Any], remedy: str) -> None:
    """Refuses a declaration out of JSON that lacks a key or has a value of another type.

    Args:
        file: Where it came from.
        found: The declaration of a model, with its data.
        remedy: What to do, the end of the message.

    Raises:
        ValueError: For the first key.
    """
    width = {"width": float} if "width" in found else {}
    need(file, found, {**{key: _NEEDED[key] for key in _DECLARED}, "likelihood": (str, dict), **width}, remedy)
    _need_lists(file, found, remedy)


def _need_lists(file: Path, found: Mapping[str, Any], remedy: str) -> None:
    for key, kind in _LISTS.items():
        for one in found.get(key, ()):
            need(file, {f"an entry of {key}": one}, {f"an entry of {key}": kind}, remedy)


def load_run(path: str | Path, trust_code: bool = False, network: str | None = None, prior: str | None = None) -> Fit:
    """Reads the fit of a run folder back onto the CPU, its network and priors by name.

    A network or prior of one's own is code, which is not run because the folder names it: see
    `bayesprune.runs.code_trust`.

    Args:
        path: The run folder.
        trust_code: Whether to run whatever code the folder names; default False.
        network: Its network, `FILE.py:NAME` or `MODULE:NAME`, repeated to allow it; default None.
        prior: Its prior, `FILE.py:NAME`, repeated to allow it; default None.

    Returns:
        The fit.

    Raises:
        CodeNotTrusted: If the folder names code that is neither repeated nor trusted.
        ValueError: If it is no run folder, a file is damaged, another reference is repeated, or the code of a prior
            or network of one's own is gone or has changed since.
    """
    from bayesprune.inference.fit_result import Fit
    from bayesprune.models.structure.ready_graphs import READY_GRAPHS
    from bayesprune.runs.code_trust import CodeTrust
    from bayesprune.runs.declaration import Declaration

    trust, path = CodeTrust(trust_code, network, prior), expanded(path)
    declaration = Declaration.from_dict(read_summary(path), trust, path / SUMMARY_FILE)
    if declaration.network not in READY_GRAPHS:
        return Fit.load(path, model=declaration.model())
    fitted = read_json(path / "fit.json", _REMEDY).get("network")  # has the graph that was drawn
    return Fit.load(path, model=declaration.model(fitted=fitted if isinstance(fitted, dict) else None))


def run_data(path: str | Path, root: str | Path | None = None) -> DataSplits:
    """Loads the data that a run was fitted to, split as they were then.

    Args:
        path: The run folder.
        root: Folder where a named data set is looked for; default: the one of the run.

    Raises:
        ValueError: If the data are gone, or are not the same any more.
    """
    return data_of(read_summary(path), path, root)


def data_of(declared: Mapping[str, Any], path: str | Path, root: str | Path | None = None) -> DataSplits:
    """Loads the data that a folder's summary or declaration names; see `run_data`.

    Args:
        declared: Has data, data_seed, data_root, input_shape and data_size.
        path: The folder, for the message.
        root: As in `run_data`.

    Raises:
        ValueError: As `run_data`.
    """
    from bayesprune.data.sets import load_data
    from bayesprune.runs.same_data import check_same_data

    name, root, seed = declared["data"], root or declared["data_root"], declared["data_seed"]
    if not isinstance(name, str) or not isinstance(root, (str, Path, type(None))) or type(seed) is not int:
        raise ValueError(f"{path} does not say what its data are (data, data_root, data_seed): make it again")
    splits = load_data(name, seed=seed, root=root)
    shape, size = list(splits.input_shape), len(splits.train[0])
    if shape != declared["input_shape"] or size != declared["data_size"]:
        raise ValueError(
            f"the data {declared['data']} have changed since {path} was fitted: {size} training examples of "
            f"shape {shape}, not {declared['data_size']} of {declared['input_shape']}"
        )
    check_same_data(declared, splits, path)
    return splits
