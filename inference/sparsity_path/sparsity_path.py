"""The result of a path: scores against sparsity over the values of a prior's knob, its front, and its networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bayesprune.inference.data.batches import Data
from bayesprune.inference.data.fingerprints import as_then, model_fingerprint
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.non_dominated import non_dominated
from bayesprune.inference.pruning.report import PruneResult
from bayesprune.inference.sparsity_path.folder import INDEX_FILE, REMEDY, point_folder, read_index
from bayesprune.inference.sparsity_path.point import Pruning, label, prune_as
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.files.json_file import damaged, need
from bayesprune.models.files.places import expanded

__all__ = ["COSTS", "Choice", "ModelAt", "SparsityPath"]

COSTS = {
    "sparsity": "density",
    "sparse_macs": "sparse_macs",
    "compact_macs": "compact_macs",
    "compact_parameters": "compact_parameters",
    "latency": "latency",
}
"""What a score can be set against, and the variable of the table that a smaller network has less of."""
_COUNTED = (
    "sparsity", "density", "weights", "nonzero", "dense_macs", "sparse_macs", "compact_macs", "parameters",
    "compact_parameters", "latency", "latency_ratio",
)  # fmt: skip
_RISING = ("accuracy",)  # of all scores these alone are better when they are larger
ModelAt = Callable[[float], BayesianNetwork]


@dataclass(frozen=True)
class Choice:
    """One network of a path.

    Attributes:
        value: Value of the knob.
        restart: Which restart of the fit at this value.
        pruning: How it is pruned: arguments of `prune`.
        sparsity: Its fraction of zeros.
        scores: Its scores, as ``validation_accuracy`` and so on.
    """

    value: float
    restart: int
    pruning: Pruning
    sparsity: float
    scores: dict[str, float]


@dataclass
class SparsityPath:
    """What `sparsity_path` found: fits along the values of a knob, and their pruned networks. `str()` is a table.

    Attributes:
        knob: Name of the prior's knob.
        table: An `xarray.Dataset`. Over `(value, restart, pruning)`: ``sparsity`` and ``density`` (fractions of the
            weights with a prior), ``weights`` and ``nonzero`` (counts of them), ``dense_macs``, ``sparse_macs``,
            ``compact_macs``, ``parameters``, ``compact_parameters``, ``latency`` of the compact network (seconds, one
            example) and ``latency_ratio`` (how many times as long the network with zeros takes). Over
            `(split, value, restart, pruning)`: the scores of each pruned network, ``accuracy`` or ``rmse``, ``nll``
            (nats per example), ``ece``. Over `(split, value, restart)`: those of the averaged prediction of the whole
            fit, as ``fit_accuracy`` and so on. Over `value`: ``seconds`` of the fit, all its restarts. NaN where a
            fit has more zeros than a pruning asks for, and for what was not measured.
        prunings: Arguments of `prune` for each entry of the dimension ``pruning``.
        notes: Sentences worth telling the user.
        fit_of: Returns the fit of a value.
    """

    knob: str
    table: xr.Dataset
    prunings: tuple[Pruning, ...]
    notes: list[str]
    fit_of: Callable[[float], Fit] = field(repr=False)

    @property
    def score(self) -> str:
        """The first score of the likelihood: ``"accuracy"`` or ``"rmse"``."""
        return "accuracy" if "accuracy" in self.table else "rmse"

    def fit(self, value: float) -> Fit:
        """The fit at a value of the knob; read from the folder where there is one.

        Raises:
            ValueError: If it is no value of the path.
        """
        return self.fit_of(self._known(value))

    def front(self, score: str | None = None, against: str = "sparsity") -> xr.Dataset:
        """The non-dominated points: no other is at least as good on validation data and at least as small.

        A point is a value and a pruning, its score and size means over restarts; one that is missing in a restart is
        left out. What is chosen on validation data is also reported on test data.

        Args:
            score: ``"accuracy"``, ``"rmse"``, ``"nll"`` or ``"ece"``; default None: that of `score`.
            against: A name in `COSTS`; default ``"sparsity"``.

        Returns:
            Over `point`, from large to small: ``value``, ``pruning``, ``sparsity`` and the variable of `against`
            (means over restarts); over `(split, point)` the score's mean and, as ``{score}_sd``, its standard
            deviation over restarts (NaN for one restart).

        Raises:
            ValueError: If score or cost are unknown, or no point has both.
        """
        score = self.score if score is None else score
        self._check_measure(score, against)
        front = self._best(score, against)
        if not front.sizes["point"]:
            raise ValueError(f"no point of the path has both {score} and {against} in every restart")
        return front

    def _best(self, score: str, against: str) -> xr.Dataset:
        several = self.table.sizes["restart"] > 1
        flat = self.table[[score, "sparsity", COSTS[against]]].stack(point=("value", "pruning")).reset_index("point")
        flat = flat.assign_coords(point=np.arange(flat.sizes["point"]))
        means = flat.mean("restart", skipna=False)
        means[f"{score}_sd"] = flat[score].std("restart", ddof=1) if several else xr.full_like(means[score], np.nan)
        chosen = means[score].sel(split="validation").values
        size = means[COSTS[against]].values
        kept = non_dominated(np.stack([-size, chosen if score in _RISING else -chosen], axis=1))[::-1]
        return (
            means.isel(point=kept)
            .reset_coords(["value", "pruning"])
            .assign_attrs(knob=self.knob, score=score, against=against)
        )

    def choose(
        self,
        sparsity: float | None = None,
        value: float | None = None,
        min_accuracy: float | None = None,
        restart: int | None = None,
    ) -> Choice:
        """Chooses one of all the pruned networks of the path, by its scores on the validation data.

        Of those that meet what is asked for it is the one of the best score; with `min_accuracy` the one of the
        highest sparsity.

        Args:
            sparsity: Least fraction of zeros.
            value: Value of the knob.
            min_accuracy: Least accuracy, a fraction.
            restart: Which restart; default None: any.

        Raises:
            ValueError: If none of the first three is given, or nothing meets what is asked for.
        """
        if sparsity is None and value is None and min_accuracy is None:
            raise ValueError("say which network of the path: give sparsity=, value= or min_accuracy=")
        if min_accuracy is not None and "accuracy" not in self.table:
            raise ValueError("this path has no accuracy, its targets are numbers: choose by sparsity= or value=")
        if restart is not None and restart not in self.table.restart.values:
            raise ValueError(f"there is no restart {restart}: this path has {self.table.sizes['restart']}, from 0")
        zeros, scores = self.table["sparsity"], self.table[self.score].sel(split="validation")
        allowed = zeros.notnull() & scores.notnull()
        if sparsity is not None:
            weights = self.table["weights"]  # a sparsity is rounded to whole weights, here as in `prune`
            allowed &= self.table["nonzero"] <= weights - (sparsity * weights).round()
        if value is not None:
            allowed &= self.table.value == self._known(value)
        if min_accuracy is not None:
            allowed &= scores >= min_accuracy
        if restart is not None:
            allowed &= self.table.restart == restart
        if not bool(allowed.any()):
            raise ValueError(
                f"no network of the path meets that: sparsities go from {float(zeros.min()):.4f} to "
                f"{float(zeros.max()):.4f}, and {self.score} on validation data from {float(scores.min()):.4f} to "
                f"{float(scores.max()):.4f}; ask for less, or extend the path"
            )
        good = scores if self.score in _RISING else -scores
        first, second = (zeros, good) if min_accuracy is not None else (good, zeros)
        order = np.lexsort((second.values.ravel(), first.values.ravel(), allowed.values.ravel()))
        place = np.unravel_index(order[-1], allowed.shape)
        at = dict(zip(allowed.dims, place, strict=True))
        network = self.table.isel(at)
        splits = [str(split) for split in self.table.split.values]
        return Choice(
            float(network.value),
            int(network.restart),
            self.prunings[int(at["pruning"])],
            float(network.sparsity),
            {f"{split}_{name}": float(network[name].sel(split=split)) for split in splits for name in self._scores()},
        )

    def prune(
        self,
        sparsity: float | None = None,
        value: float | None = None,
        min_accuracy: float | None = None,
        restart: int | None = None,
        data: Data | None = None,
    ) -> PruneResult:
        """Prunes the network that `choose` chooses.

        Args:
            sparsity: Least fraction of zeros.
            value: Value of the knob.
            min_accuracy: Least accuracy on the validation data, a fraction.
            restart: Which restart; default None: any.
            data: Training data, for running statistics of batch normalisation, as in `prune`; the path had them.

        Raises:
            ValueError: As `choose`.
        """
        return self.prune_choice(self.choose(sparsity, value, min_accuracy, restart), data)

    def prune_choice(self, choice: Choice, data: Data | None = None) -> PruneResult:
        """Prunes a network that `choose` has chosen; see `prune`."""
        pruned = prune_as(self.fit(choice.value), choice.restart, choice.pruning, data)
        assert pruned is not None  # it was measured
        rule = f"{pruned.report.rule} at {self.knob} = {choice.value:g}, restart {choice.restart}"
        return replace(pruned, report=replace(pruned.report, rule=rule))

    @staticmethod
    def load(folder: str | Path, model_at: ModelAt) -> SparsityPath:
        """Reads a path back, as far as it was finished.

        Args:
            folder: Its folder.
            model_at: The function from a value of the knob to the model, as it was.

        Raises:
            ValueError: If it is no path or damaged, no point is finished, or a model has changed since.
        """
        folder = expanded(folder)
        index = read_index(folder)
        if not index["points"]:
            raise ValueError(f"no point of the path {folder} is finished yet: call sparsity_path to go on with it")
        values = index["values"][: len(index["points"])]
        for value, fingerprint in zip(values, index["declarations"], strict=False):
            if as_then(model_fingerprint(model_at(value)), fingerprint) != fingerprint:
                raise ValueError(
                    f"the model at {index['knob']} = {value:g} has changed since {folder} was made: pass the function "
                    "of then"
                )

        def fit_of(value: float) -> Fit:
            return Fit.load(point_folder(folder, values.index(value)), model_at(value))

        kinds = {"sparsity": float, "min_inclusion": float, "per": str, "criterion": (str, type(None))}
        try:
            for one in index["prunings"]:
                need(folder / INDEX_FILE, one, {key: kinds[key] for key in one}, REMEDY)
            path = SparsityPath.of(index["knob"], values, index["prunings"], index["points"], fit_of)
            path.table[path.score]  # the first that any likelihood has
            return path
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as problem:
            raise damaged(folder / INDEX_FILE, problem, REMEDY) from problem

    @staticmethod
    def of(
        knob: str,
        values: Sequence[float],
        prunings: Sequence[Pruning],
        points: Sequence[Mapping[str, Any]],
        fit_of: Callable[[float], Fit],
    ) -> SparsityPath:
        """Makes a path of what `bayesprune.inference.sparsity_path.point.measure` returned at each value."""
        notes = dict.fromkeys(note for point in points for note in point["notes"])
        return SparsityPath(knob, _table(values, prunings, points), tuple(prunings), list(notes), fit_of)

    def __str__(self) -> str:
        best = self._best(self.score, "sparsity")
        on_front = set(zip(best["value"].values, best["pruning"].values, strict=True))
        splits = [str(split) for split in self.table.split.values]
        shown = [(split, self.score) for split in splits] + [(splits[-1], "nll")]
        heads = [self.knob, "pruning", "sparsity", *(f"{split} {name}" for split, name in shown)]
        heads += ["compact parameters", "sparse MACs", "compact MACs", "latency [ms]", "front"]
        rows = [heads]
        for value in self.table.value.values:
            for pruning in self.table.pruning.values:
                at = self.table.sel(value=value, pruning=pruning)
                if not bool(at.sparsity.notnull().any()):
                    continue
                cells = [f"{value:g}", str(pruning), _cell(at.sparsity, 4)]
                cells += [_cell(at[name].sel(split=split), 4) for split, name in shown]
                cells += [_cell(at[name], 0) for name in ("compact_parameters", "sparse_macs", "compact_macs")]
                rows.append([*cells, _cell(1e3 * at.latency, 3), "*" if (value, pruning) in on_front else ""])
        columns = [column for column in zip(*rows, strict=True) if set(column[1:]) != {"-"}]
        widths = [max(map(len, column)) for column in columns]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in zip(*columns, strict=True)]
        restarts = self.table.sizes["restart"]
        lines.append(
            f"{f'means of {restarts} restarts +- sd; ' if restarts > 1 else ''}* not dominated in sparsity and "
            f"{self.score} on validation data; {float(self.table.seconds.sum()):.0f} s of fitting"
        )
        return "\n".join([*lines, *self.notes])

    # -- inside ----------------------------------------------------------------------------------------------

    def _scores(self) -> list[str]:
        return [name for name in ("accuracy", "rmse", "nll", "ece") if name in self.table]

    def _known(self, value: float) -> float:
        values = [float(each) for each in self.table.value.values]
        if value not in values:
            listed = ", ".join(f"{each:g}" for each in values)
            raise ValueError(f"the path has no fit at {self.knob} = {value:g}: its values are {listed}")
        return float(value)

    def _check_measure(self, score: str, against: str) -> None:
        if score not in self._scores():
            raise ValueError(f"the path has no score {score!r}: it has {', '.join(self._scores())}")
        if against not in COSTS:
            raise ValueError(f"against={against!r} is unknown: expected one of {', '.join(COSTS)}")
        if not bool(self.table[COSTS[against]].notnull().any()):
            how = ": make the path with latency=True" if against == "latency" else ""
            raise ValueError(f"the path has no {against}, it was not measured{how}")


def _table(values: Sequence[float], prunings: Sequence[Pruning], points: Sequence[Mapping[str, Any]]) -> xr.Dataset:
    """Gathers what was measured at each value."""
    fits = [point["fits"] for point in points]
    networks = [point["networks"] for point in points]
    splits = list(dict.fromkeys(name.partition("_")[0] for name in fits[0][0]))
    scores = list(dict.fromkeys(name.partition("_")[2] for name in fits[0][0]))

    def of_networks(key: str) -> Any:
        return [[[_number(one and one[key]) for one in row] for row in rows] for rows in networks]

    def of_fits(key: str) -> Any:
        return [[_number(one[key]) for one in rows] for rows in fits]

    shape = ("value", "restart", "pruning")
    data: dict[str, Any] = {name: (shape, of_networks(name)) for name in _COUNTED}
    for score in scores:
        data[score] = (("split", *shape), [of_networks(f"{split}_{score}") for split in splits])
        data[f"fit_{score}"] = (("split", *shape[:2]), [of_fits(f"{split}_{score}") for split in splits])
    data["seconds"] = ("value", [point["seconds"] for point in points])
    coords = {
        "value": np.array(values, dtype=float),
        "restart": np.arange(len(fits[0])),
        "pruning": [label(pruning) for pruning in prunings],
        "split": splits,
    }
    return xr.Dataset(data, coords=coords)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _cell(values: xr.DataArray, digits: int) -> str:
    """Mean over restarts, with their standard deviation where they differ."""
    found = values.values[np.isfinite(values.values)]
    if not len(found):
        return "-"
    spread = f" +- {np.std(found, ddof=1):,.{digits}f}" if len(found) > 1 and np.ptp(found) > 0 else ""
    return f"{found.mean():,.{digits}f}{spread}"
