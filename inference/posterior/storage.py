"""Saving and loading fits: JSON, safetensors and netCDF, nothing pickled."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import h5py
import torch
import xarray as xr
from torch import Tensor, nn

from bayesprune.inference.data.fingerprints import compare_structure, network_structure
from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.restart import Restart
from bayesprune.inference.watching.pruning_trace import trace_of_today
from bayesprune.inference.watching.trace_file import UNREADABLE
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.renamed_arguments import by_new_names
from bayesprune.models.declared_model import code_of_ones_own, declared_model
from bayesprune.models.files.json_file import damaged, need, read_json, read_regular, write_json
from bayesprune.models.files.netcdf_file import write_netcdf
from bayesprune.models.files.new_folder import new_folder, replaced_folder
from bayesprune.models.files.places import expanded
from bayesprune.models.files.staging import clear_leftovers
from bayesprune.models.files.tensor_file import (
    infinite_buffers,
    not_finite,
    read_tensors,
    tensor_digest,
    write_tensors,
)
from bayesprune.models.files.unwritable import permitted
from bayesprune.models.networks.evaluation_mode import remember_held
from bayesprune.models.networks.standardisation import UNITS, put_in_units, units_of
from bayesprune.models.structure.structure_masks import StructureMasks, structure_of
from bayesprune.models.units.cutting import cut
from bayesprune.models.ways.rebuilt import is_rebuilt, rebuilt_way

F = TypeVar("F", bound=Fitted)
FORMAT = 1
FIT_FILE, TRACE_FILE = "fit.json", "trace.nc"
_REMEDY = "fit again, or restore the file"
_DROPPINGS = (".DS_Store", "Thumbs.db", "desktop.ini")
"""What file managers leave in folders that were looked at."""
_KEYS: dict[str, Any] = {
    "settings": dict, "seeds": list, "data_size": int, "likelihood": dict, "network": (dict, type(None)),
    "priors": dict, "shapes": dict,
}  # fmt: skip
_LATER_KEYS: dict[str, Any] = {"gates": (dict, type(None)), "ways": dict, "plans": list, "digests": dict}
"""Keys that earlier versions did not write."""
_SETTINGS: dict[str, Any] = {  # of a loop of one's own nobody may know
    "precision": str, "guide": object, "seconds": (float, type(None)), "tempered": (bool, type(None)),
}  # fmt: skip
_LATER_SETTINGS: dict[str, Any] = {
    "input_shape": list, "stopped_early": list, "kl_warmup": (float, type(None)),
    "steps": (int, type(None)), "batch_size": (int, type(None)),
    "standardised": dict,
}  # fmt: skip
_WRONG = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, AssertionError, OverflowError
)  # fmt: skip
"""What the making of something from damaged names and numbers raises."""


def save_fit(fit: Fitted, path: str | Path, overwrite: bool = False) -> Path:
    """Writes a fit to a new folder, all of it or nothing.

    Args:
        fit: The fit.
        path: The folder; it must not exist unless `overwrite`. A leading `~` is expanded.
        overwrite: Whether an existing fit is replaced once the new one is complete. A folder that holds anything else
            is not.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder exists, or is no fit that could be replaced, or cannot be written to; or the fit holds
            NaN.
        OSError: If the disk is full; what was there stays.
    """
    path = expanded(path)
    clear_leftovers(path.absolute())
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"{path} exists already: choose another folder, or pass overwrite=True")
    made = replaced_folder(path, _is_fit, "a saved fit") if overwrite else new_folder(path)
    with permitted(), made as staged:
        write_fit(fit, staged)
    return path


def _is_fit(folder: Path) -> bool:
    """Whether a folder holds a saved fit and nothing else.

    Raises:
        ValueError: If it holds one and other files.
    """
    names = {file.name for file in folder.iterdir()} - set(_DROPPINGS)
    if not {FIT_FILE, TRACE_FILE, "restart-0.safetensors"} <= names:
        return False
    others = [
        name for name in sorted(names)
        if name not in (FIT_FILE, TRACE_FILE) and not re.fullmatch(r"restart-\d+\.safetensors", name)
    ]  # fmt: skip
    if others:
        raise ValueError(
            f"{folder} holds {others[0]} besides a saved fit, so it is not replaced: move that away, or choose another "
            "folder"
        )
    return True


def write_fit(fit: Fitted, folder: Path) -> None:
    """Writes the files of a fit into an existing folder.

    ``fit.json`` holds settings, the declaration and its fingerprints, and what is left of a network whose units were
    removed (``plans``); ``restart-0.safetensors`` and on guides, point estimates, buffers, ways and moved knobs;
    ``trace.nc`` the pruning trace. ``digests`` in fit.json are those of the other files.

    Raises:
        ValueError: If the fit holds NaN or infinity.
        OSError: If something cannot be written.
    """
    states = [_state(one) for one in fit.restarts]
    for number, (one, state) in enumerate(zip(fit.restarts, states, strict=True)):
        wrong = not_finite(state, infinite_buffers(one.model.network, "network."))
        if wrong is not None:
            raise ValueError(
                f"restart {number} of the fit holds NaN or infinity in {wrong}, so it is not saved: fit again with a "
                "smaller learning rate, or clip="
            )
    model = fit.model
    network = model.network if model.declared is None else model.declared
    declaration = {
        "format": FORMAT,
        "settings": fit.settings,
        "seeds": [one.seed for one in fit.restarts],
        "data_size": model.data_size,
        "likelihood": model.likelihood.config(),
        "network": getattr(network, "config", None),
        "priors": {
            pattern: {
                "config": hierarchy.config,
                "fingerprint": hierarchy.fingerprint(),
                "printed": str(hierarchy),
            }
            for pattern, hierarchy in model.patterns.items()
        },
        "gates": model.way_configs.get("gates"),
        "ways": model.way_configs,
        "plans": [one.model.plan for one in fit.restarts],
        "shapes": _shapes(network),
        "modules": network_structure(network),
    }
    digests = {}
    for number, state in enumerate(states):
        name = f"restart-{number}.safetensors"
        digests[name] = write_tensors(state, folder / name)
    digests[TRACE_FILE] = write_netcdf(fit.trace, folder / TRACE_FILE)
    write_json(folder / FIT_FILE, {**declaration, "digests": digests})


def load_fit(kind: type[F], path: str | Path, model: BayesianNetwork | None = None) -> F:
    """Reads a fit back onto the CPU; see `Fit.load`. Where a process was killed while replacing it, that is ended.

    Args:
        kind: The class that is made: `Fit`.
        path: The folder.
        model: The model, where it is not one of names alone.
    """
    path = expanded(path)
    clear_leftovers(Path(os.path.realpath(path)))
    file = path / FIT_FILE
    declared = _read_declared(path)
    model = _declared_model(declared, path) if model is None else model
    model = _with_ways(model, declared, path)
    _compare(model, declared, path)
    dtype = torch.float64 if declared["settings"]["precision"] == "float64" else torch.float32
    restarts = []
    plans = declared.get("plans") or [None] * len(declared["seeds"])
    digests = declared.get("digests", {})  # earlier versions wrote none
    for number, (seed, plan) in enumerate(zip(declared["seeds"], plans, strict=True)):
        name = f"restart-{number}.safetensors"
        copied = _fresh(model, dtype)
        # What may be infinite is known when there is a network, and that has to have the units that the file holds.
        state = read_tensors(path / name, _REMEDY, digests.get(name), may_be_infinite=None)
        _put_in_units(copied, state, path / name)
        if plan is not None:
            copied = _cut(copied, plan, path)
        wrong = not_finite(state, infinite_buffers(copied.network, "network.") - {f"network.{each}" for each in UNITS})
        if wrong is not None:
            raise ValueError(f"{path / name} holds NaN or infinity in {wrong}: {_REMEDY}")
        try:
            with torch.random.fork_rng(devices=[]):  # a guide draws some of the starting values that are replaced next
                one = Restart(copied, Guide(copied, declared["settings"]["guide"]), seed)
        except _WRONG as problem:
            raise damaged(file, problem, _REMEDY) from problem
        _restore(one, state, path / name)
        restarts.append(one)
    trace = path / TRACE_FILE
    if TRACE_FILE in digests and tensor_digest(read_regular(trace, _REMEDY)) != digests[TRACE_FILE]:
        raise damaged(trace, "its content is not what was written", _REMEDY)
    events = {name: prior.hierarchy.included for name, prior in restarts[0].model.priors.items()}
    exact = [name for name, event in events.items() if event is not None and event.is_exact]
    return kind(restarts, trace_of_today(_read_trace(trace), exact), by_new_names(declared["settings"]))


def _read_declared(path: Path) -> dict[str, Any]:
    """What fit.json says, with the keys and types that it has to have."""
    file = path / FIT_FILE
    if not os.path.lexists(file):
        raise ValueError(f"{path} is no saved fit: it has no {FIT_FILE}")
    declared = read_json(file, _REMEDY)
    if declared.get("format") != FORMAT:
        raise ValueError(f"{path} was written in format {declared.get('format')}, but this version reads {FORMAT}")
    _need(file, declared, _KEYS, _LATER_KEYS)
    _need(file, declared["settings"], _SETTINGS, _LATER_SETTINGS)
    for pattern, saved in declared["priors"].items():
        if not isinstance(saved, dict):
            raise damaged(file, f"the prior on {pattern} is no object", _REMEDY)
        need(file, saved, {"config": (dict, type(None)), "fingerprint": object, "printed": str}, _REMEDY)
    seeds, plans = declared["seeds"], declared.get("plans") or declared["seeds"]
    if not seeds or len(plans) != len(seeds) or any(not isinstance(seed, int) for seed in seeds):
        raise damaged(file, "seeds and plans are not one for each restart", _REMEDY)
    return declared


def _need(file: Path, found: Mapping[str, Any], always: Mapping[str, Any], later: Mapping[str, Any]) -> None:
    need(file, found, {**always, **{key: kind for key, kind in later.items() if key in found}}, _REMEDY)


def _state(one: Restart) -> dict[str, Tensor]:
    state = {f"guide.{k}": v for k, v in one.guide.state_dict().items()}
    state |= {f"network.{k}": v for k, v in one.model.network.state_dict().items()}
    state |= {f"likelihood.{k}": v for k, v in one.model.likelihood.state_dict().items()}
    moved = one.model.knobs.moved()
    state |= {f"knobs.{k}": torch.tensor(v, dtype=torch.float64) for k, v in moved.items()}
    state |= {f"ways.{k}": v for k, v in one.model.ways.state_dict().items()}
    state |= {f"fisher.{k}": v for k, v in (one.fisher or {}).items()}
    return state


def _restore(one: Restart, state: dict[str, Tensor], file: Path) -> None:
    parts: dict[str, dict[str, Tensor]] = {"guide": {}, "network": {}, "likelihood": {}, "ways": {}, "fisher": {}}
    parts["knobs"] = {}
    for key, value in state.items():
        owner, _, name = key.partition(".")
        parts.setdefault(owner, {})[name] = value
    modules: dict[str, nn.Module] = {
        "guide": one.guide, "network": one.model.network, "likelihood": one.model.likelihood, "ways": one.model.ways
    }  # fmt: skip
    try:
        for owner, module in modules.items():
            module.load_state_dict(parts[owner])
        one.model.knobs.go_on_from({name: float(value) for name, value in parts["knobs"].items()})
    except (RuntimeError, ValueError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ValueError(f"{file} does not fit the model it is loaded into ({reason})") from problem
    structure = structure_of(one.model.network, one.model.priors)
    if (None if structure is None else structure.config) != one.model.way_configs.get(StructureMasks.name):
        raise ValueError(f"{file} does not fit the model it is loaded into: its masks are of other connections")
    one.fisher = parts["fisher"] or None
    remember_held(one.model.network)  # the declaration says which, and a fit that goes on keeps to it
    one.model.eval()


def _put_in_units(model: BayesianNetwork, state: Mapping[str, Tensor], file: Path) -> None:
    """Has the network standardise as the fitted one does, IN PLACE; its declaration does not say so."""
    prefix = "network."
    units = units_of({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    if not units or units_of(model.network):
        return
    try:
        put_in_units(model.network, units)
    except ValueError as problem:
        raise ValueError(f"{file} does not fit the model it is loaded into ({problem})") from problem


def _fresh(model: BayesianNetwork, dtype: torch.dtype) -> BayesianNetwork:
    """A copy of the declaration, on the CPU, to load one restart into."""
    return copy.deepcopy(model).to("cpu", dtype)


def _declared_model(declared: dict[str, Any], path: Path) -> BayesianNetwork:
    """The model from its declaration, where network and priors are ready ones."""
    try:
        own = code_of_ones_own(declared)
        model = None if own else declared_model(declared)
    except ValueError as problem:
        raise damaged(path / FIT_FILE, problem, _REMEDY) from problem
    if model is None:
        raise ValueError(
            f"{path} was fitted with code of your own ({own}), which is not stored: "
            "pass the model, Fit.load(path, model=bnn)"
        )
    return model


def _with_ways(model: BayesianNetwork, declared: Mapping[str, Any], path: Path) -> BayesianNetwork:
    """The model with the ways that a rule of its training had added, which a declaration does not say."""
    ways = declared.get("ways", {})
    missing = [name for name in ways if name not in model.way_configs and is_rebuilt(name)]
    model = copy.deepcopy(model) if missing else model
    for name in missing:
        try:
            model.ways.append(rebuilt_way(name, ways[name], model.network))
        except _WRONG as problem:
            raise ValueError(f"{path / FIT_FILE} does not fit the model: its {name} are wrong ({problem})") from problem
    return model


def _cut(model: BayesianNetwork, plan: dict[str, Any], path: Path) -> BayesianNetwork:
    """The model without the units that a fit has removed."""
    try:
        return model.with_network(cut(model.network, model.example_input, plan, keep_mode=True), plan)
    except _WRONG as problem:
        raise ValueError(
            f"{path / FIT_FILE} does not fit the model: its plan of removed units is {problem}"
        ) from problem


def _compare(model: BayesianNetwork, declared: dict[str, Any], path: Path) -> None:
    if set(model.patterns) != set(declared["priors"]):
        raise ValueError(
            f"{path} was fitted with priors on {', '.join(declared['priors'])}, but the model has them on "
            f"{', '.join(model.patterns)}: declare the same patterns"
        )
    for pattern, hierarchy in model.patterns.items():
        saved = declared["priors"][pattern]
        if saved["config"] is not None and hierarchy.config == saved["config"]:
            continue  # a ready prior with the same arguments is the same prior
        if hierarchy.fingerprint() != saved["fingerprint"]:
            printed = "; ".join(" ".join(line.split()) for line in saved["printed"].splitlines())
            raise ValueError(
                f"the prior on {pattern} has changed since {path} was fitted: restore the declaration it was fitted "
                f"with ({printed})"
            )
    likelihood = json.loads(
        json.dumps(model.likelihood.config(), default=str)
    )  # as it is read back: tuples are lists there
    if likelihood != declared["likelihood"]:
        raise ValueError(
            f"{path} was fitted with the likelihood {declared['likelihood']}, but the model has {likelihood}: "
            "declare the same"
        )
    _compare_ways(model, declared, path)
    if _shapes(model.network) != declared["shapes"]:
        raise ValueError(f"{path} was fitted with a network of other parameters: pass a model of the same network")
    compare_structure(declared.get("modules"), model.network, path)


def _compare_ways(model: BayesianNetwork, declared: Mapping[str, Any], path: Path) -> None:
    """Refuses a model with other ways; earlier versions knew of gates of units alone, which they kept by themselves."""
    now = json.loads(json.dumps(model.way_configs, default=str))
    gates = declared.get("gates")
    before = declared.get("ways", {"gates": gates} if gates else {})
    for name in {**before, **now}:
        if name not in before or name not in now or before[name] != now[name]:
            what = "gates of units" if name == "gates" else f"{name} between weights and network"
            raise ValueError(
                f"{path} was fitted with other {what} ({before.get(name)}) than the model has ({now.get(name)}): "
                "declare the same"
            )


def _shapes(network: nn.Module) -> dict[str, list[int]]:
    return {name: list(parameter.shape) for name, parameter in network.named_parameters()}


def _read_trace(file: Path) -> xr.Dataset:
    if not file.is_file():  # a pipe would be waited for
        raise ValueError(f"{file} is damaged or missing (it is no file): fit again, or restore the file")
    try:
        with h5py.File(file) as stored:
            # What h5netcdf asks first; where it is refused there, its destructor prints a traceback.
            stored.attrs.get("_nc3_strict")
        with xr.open_dataset(file, engine="h5netcdf") as found:
            return found.load()
    except UNREADABLE as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ValueError(f"{file} is damaged or missing ({reason}): fit again, or restore the file") from problem
