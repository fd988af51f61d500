"""Saving and loading fits: JSON, safetensors and netCDF, nothing pickled."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import h5py
import torch
import xarray as xr
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bayesprune.inference.guides import Guide
from bayesprune.inference.result import Fit, Restart
from bayesprune.inference.trace_file import UNREADABLE
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.cutting import cut
from bayesprune.models.likelihoods import Likelihood
from bayesprune.models.networks import NETWORKS
from bayesprune.models.priors import from_config
from bayesprune.models.unit_gates import UnitGates

FORMAT = 1
FIT_FILE, TRACE_FILE = "fit.json", "trace.nc"


def save_fit(fit: Fit, path: str | Path, overwrite: bool = False) -> Path:
    """Writes a fit to a new folder, all of it or nothing.

    Args:
        fit: The fit.
        path: The folder; it must not exist unless `overwrite`.
        overwrite: Whether an existing fit is replaced once the new one is complete.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder exists or cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already: choose another folder, or pass overwrite=True")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as problem:
        raise ValueError(
            f"{path} cannot be written ({problem.strerror}): choose a folder that you may write to"
        ) from problem
    try:
        write_fit(fit, staging)
        os.chmod(staging, 0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(staging, path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return path


def write_fit(fit: Fit, folder: Path) -> None:
    """Writes the files of a fit into an existing folder.

    ``fit.json`` holds settings, the declaration and its fingerprints, and what is left of a network whose units were
    removed (``plans``); ``restart-0.safetensors`` and on the guides, point estimates and buffers; ``trace.nc`` the
    pruning trace.
    """
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
        "gates": None if model.gates is None else model.gates.declaration.config,
        "plans": [one.model.plan for one in fit.restarts],
        "shapes": {name: list(parameter.shape) for name, parameter in network.named_parameters()},
    }
    text = json.dumps(declaration, indent=2, allow_nan=False)
    for number, one in enumerate(fit.restarts):
        save_file(_state(one), folder / f"restart-{number}.safetensors")
    fit.trace.to_netcdf(folder / TRACE_FILE, engine="h5netcdf")
    (folder / FIT_FILE).write_text(text + "\n", encoding="utf-8")


def load_fit(path: str | Path, model: BayesianNetwork | None = None) -> Fit:
    """Reads a fit back onto the CPU; see `Fit.load`."""
    path = Path(path)
    declared = _read_json(path / FIT_FILE)
    if declared.get("format") != FORMAT:
        raise ValueError(f"{path} was written in format {declared.get('format')}, but this version reads {FORMAT}")
    model = _declared_model(declared, path) if model is None else model
    _compare(model, declared, path)
    dtype = torch.float64 if declared["settings"]["precision"] == "float64" else torch.float32
    restarts = []
    plans = declared.get("plans") or [None] * len(declared["seeds"])
    for number, (seed, plan) in enumerate(zip(declared["seeds"], plans, strict=True)):
        file = path / f"restart-{number}.safetensors"
        copied = _fresh(model, dtype)
        if plan is not None:
            copied = _cut(copied, plan, path)
        with torch.random.fork_rng(devices=[]):  # a guide draws some of the starting values that are replaced next
            one = Restart(copied, Guide(copied, declared["settings"]["guide"]), seed)
        _restore(one, _read_tensors(file), file)
        restarts.append(one)
    return Fit(restarts, _read_trace(path / TRACE_FILE), declared["settings"])


def _state(one: Restart) -> dict[str, Tensor]:
    state = {f"guide.{k}": v for k, v in one.guide.state_dict().items()}
    state |= {f"network.{k}": v for k, v in one.model.network.state_dict().items()}
    state |= {f"likelihood.{k}": v for k, v in one.model.likelihood.state_dict().items()}
    state |= {f"fisher.{k}": v for k, v in (one.fisher or {}).items()}
    return {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}


def _restore(one: Restart, state: dict[str, Tensor], file: Path) -> None:
    parts: dict[str, dict[str, Tensor]] = {"guide": {}, "network": {}, "likelihood": {}, "fisher": {}}
    for key, value in state.items():
        owner, _, name = key.partition(".")
        parts.setdefault(owner, {})[name] = value
    modules: dict[str, nn.Module] = {
        "guide": one.guide, "network": one.model.network, "likelihood": one.model.likelihood
    }  # fmt: skip
    try:
        for owner, module in modules.items():
            module.load_state_dict(parts[owner])
    except RuntimeError as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ValueError(f"{file} does not fit the model it is loaded into ({reason})") from problem
    one.fisher = parts["fisher"] or None
    one.model.eval()


def _fresh(model: BayesianNetwork, dtype: torch.dtype) -> BayesianNetwork:
    """A copy of the declaration, on the CPU, to load one restart into."""
    return copy.deepcopy(model).to("cpu", dtype)


def _declared_model(declared: dict[str, Any], path: Path) -> BayesianNetwork:
    """The model from its declaration, where network and priors are ready ones."""
    own = [pattern for pattern, saved in declared["priors"].items() if saved["config"] is None]
    if declared["network"] is None or own:
        what = f"the prior on {own[0]}" if own else "the network"
        raise ValueError(
            f"{path} was fitted with code of your own ({what}), which is not stored: "
            "pass the model, Fit.load(path, model=bnn)"
        )
    network = declared["network"]
    built = NETWORKS[network["name"]](
        tuple(network["input_shape"]), network["classes"], width=network.get("width", 1.0)
    )
    priors = {pattern: from_config(saved["config"]) for pattern, saved in declared["priors"].items()}
    gates = declared.get("gates")
    return BayesianNetwork(
        built,
        priors,
        Likelihood.from_config(declared["likelihood"]),
        declared["data_size"],
        None if gates is None else UnitGates(**gates["arguments"]),
    )


def _cut(model: BayesianNetwork, plan: dict[str, Any], path: Path) -> BayesianNetwork:
    """The model without the units that a fit has removed."""
    try:
        return model.with_network(cut(model.network, model.example_input, plan, keep_mode=True), plan)
    except (ValueError, KeyError, AssertionError) as problem:
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
    gates = None if model.gates is None else model.gates.declaration.config
    if gates != declared.get("gates"):
        raise ValueError(
            f"{path} was fitted with other gates of units ({declared.get('gates')}) than the model has ({gates}): "
            "declare the same"
        )
    shapes = {name: list(parameter.shape) for name, parameter in model.network.named_parameters()}
    if shapes != declared["shapes"]:
        raise ValueError(f"{path} was fitted with a network of other parameters: pass a model of the same network")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file.parent} is no saved fit: it has no {file.name}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise ValueError(f"{file} is damaged ({problem}): fit again, or restore the file") from problem
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged (not a JSON object): fit again, or restore the file")
    return found


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as problem:
        raise ValueError(f"{file} is damaged or missing ({problem}): fit again, or restore the file") from problem


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
