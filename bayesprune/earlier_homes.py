"""Earlier homes of public names, for one release: files have moved, and imports from where they were go on.

Prior files beside run folders, and code that follows earlier pages, have such imports. A name is then that of the face,
with a warning; what was never public is refused with a sentence.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["EARLIER", "know_earlier_homes"]

_FILES = {
    "analysis": "agreement convergence deletion_calibration layer_table loo pareto plot_architecture plot_calibration "
    "plot_deletion_calibration plot_front plot_gates plot_inclusion plot_prior_posterior plot_pruning_trace plot_r_hat "
    "plot_scales plot_shrinkage plot_trajectories plot_units set_deletion stopping to_arviz training_costs",
    "inference": "batch_normalisation callbacks continuation criteria families finetune fit gate_estimators gating "
    "iterate_average laplace_around paths prune record reduction result schedules tensorboard term_check trace_file "
    "unit_gate_estimators",
    "models": "architecture channel_groups compact continuous_spike_and_slab expected_costs export flattening gaussian "
    "group_horseshoe group_normal_jeffreys halo hierarchy horseshoe inclusion laplace latency mcp onnx_export "
    "prior_sparsity real_likelihoods reduction_prior sparse sparse_variational_dropout spike_and_slab "
    "spike_slab_mixture standardisation structured_bayesian_pruning sws unit_gates vib",
}
_IN_FLOORS = {f"bayesprune.{floor}.{file}" for floor, files in _FILES.items() for file in files.split()}
EARLIER = frozenset(_IN_FLOORS | {"bayesprune.run_folder"})
"""Homes that public names had, and where nothing is now."""


class _EarlierHome(Loader):
    """Makes a module that has what the face has."""

    def create_module(self, spec: ModuleSpec) -> None:
        """None: an ordinary module is made."""

    def exec_module(self, module: ModuleType) -> None:
        """Gives the module its look-up of names."""

        def found(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            face = import_module("bayesprune")
            if name not in face.__all__:
                raise AttributeError(
                    f"{module.__name__} has moved, and {name} is no public name: import public ones from bayesprune "
                    "(docs/index.md), or look for its file in ARCHITECTURE.md"
                )
            warnings.warn(
                f"{module.__name__} has moved, and its name goes with the next release: write from bayesprune import "
                f"{name}",
                FutureWarning,
                stacklevel=2,
            )
            return getattr(face, name)

        module.__getattr__ = found  # type: ignore[method-assign]


class _Finder(MetaPathFinder):
    """Finds earlier homes, after everything else has been asked."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of an earlier home; None for every other name."""
        return ModuleSpec(fullname, _EarlierHome()) if fullname in EARLIER else None


def know_earlier_homes() -> None:
    """Has Python find earlier homes; once a process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
