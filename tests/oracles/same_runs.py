"""Whether two run folders hold the same numbers, to the last bit, whatever the time that they took."""

from __future__ import annotations

from pathlib import Path

import torch
import xarray as xr
from safetensors.torch import load_file

from bayesprune.inference.posterior.storage import TRACE_FILE
from bayesprune.runs.run_folder import read_summary

TIMED = {"seconds", "created", "execution", "resumed_at_epoch"}


def numbers(run):
    """All that a run folder holds but for the time that it took: summary, tensors by file, trace."""
    summary = {key: value for key, value in read_summary(run).items() if key not in TIMED}
    tensors = {file.name: load_file(file) for file in sorted(Path(run).glob("*.safetensors"))}
    with xr.open_dataset(Path(run) / TRACE_FILE, engine="h5netcdf") as found:
        trace = found.load().drop_vars("seconds")
    return summary, tensors, trace


def is_same(one, other):
    """Whether two run folders hold the same numbers."""
    (summary, tensors, trace), (others, theirs, their_trace) = numbers(one), numbers(other)
    return (
        summary == others
        and tensors.keys() == theirs.keys()
        and all(found.keys() == theirs[file].keys() for file, found in tensors.items())
        and all(torch.equal(value, theirs[file][name]) for file in tensors for name, value in tensors[file].items())
        and trace.identical(their_trace)
    )
