"""Reads a sweep back: its fits from their records, and what only the storage knows from there, where it is reached."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bayesprune.inference.watching.trace_file import RunningFit, read_progress
from bayesprune.models.files.places import expanded
from bayesprune.runs.part_folder import part_folder
from bayesprune.sweeps.sweep_result import COMPLETE, FAILED, RUNNING, WAITING, Sweep, SweepFit
from bayesprune.sweeps.trial import Record, read_record
