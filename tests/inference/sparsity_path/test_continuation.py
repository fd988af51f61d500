"""A path: the fits that it says it makes, interrupted or not; what it measures; what it chooses."""

from __future__ import annotations

import json

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import nn

import bayesprune as bp
from bayesprune.inference.sparsity_path import folder as path_folder
from bayesprune.inference.sparsity_path import next_fit
from bayesprune.inference.sparsity_path.folder import INDEX_FILE

SIZE = 60
torch.manual_seed(2)
X = torch.randn(SIZE, 6)
Y = (X[:, 0] + X[:, 1] > 0).long() + (X[:, 2] > 1).long()
VALIDATION, TEST = (torch.randn(40, 6), torch.randint(3, (40,))), (torch.randn(25, 6), torch.randint(3, (25,)))
HOW = {"learning_rate": 0.02, "batch_size": 20, "device": "cpu", "seed": 4}


SCORES = ("validation_accuracy", "validation_nll", "test_accuracy", "test_nll")


def model_with(prior, norm=False, classes=3):
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(7) if norm else nn.Identity()
    network = nn.Sequential(nn.Linear(6, 7), middle, nn.ReLU(), nn.Linear(7, classes))
    return bp.BayesianNetwork(network, {"[03].weight": prior}, data_size=SIZE)


def spike_at(value):
    return model_with(bp.SpikeAndSlab(value))


def halo_at(value):
    return model_with(bp.HALO(kappa=value))


def followed(model_at=spike_at, values=(0.5, 0.2, 0.05), **more):
    given = {"knob": "knob", "validation": VALIDATION, "test": TEST, "epochs": 2, "first_epochs": 5, "restarts": 2}
    return bp.sparsity_path(model_at, (X, Y), values, **{**given, **HOW, **more})


@pytest.fixture(scope="module")
def spike():
    return followed()


@pytest.fixture(scope="module")
def halo():
    return followed(halo_at, (1.0, 30.0), kl_warmup=0.4)


def quick(**more):
    """A path of points, three fits with a network each: little to compute."""
    how = {"model_at": halo_at, "values": (1.0, 5.0, 30.0), "epochs": 1, "prunings": [{"sparsity": 0.5}]}
    return followed(**{**how, **more})


@pytest.fixture(scope="module")
def uninterrupted():
    return quick()


def numbers(fit):
    return [
        torch.cat([p.detach().flatten() for p in (*r.guide.parameters(), *r.model.parameters())]) for r in fit.restarts
    ]


def same_fits(one, other):
    return all(torch.equal(a, b) for a, b in zip(numbers(one), numbers(other), strict=True))


def without_clocks(path):
    return path.table.drop_vars(["seconds", "latency", "latency_ratio"])


# -- the fits ------------------------------------------------------------------------------------------------


def test_a_path_is_the_fits_that_its_docstring_says(halo):
    how = {**HOW, "restarts": 2, "validation": VALIDATION}
    first = bp.fit(halo_at(1.0), (X, Y), epochs=5, kl_warmup=0.4, **how)
    second = bp.fit(halo_at(30.0), (X, Y), start=first, epochs=2, kl_warmup=0.0, **how)
    assert same_fits(halo.fit(1.0), first) and same_fits(halo.fit(30.0), second)
    cold = bp.fit(halo_at(30.0), (X, Y), epochs=2, kl_warmup=0.0, **how)
    assert not same_fits(halo.fit(30.0), cold)
    assert not halo.fit(1.0).settings["warm_start"] and halo.fit(30.0).settings["warm_start"]


class Interrupted(BaseException):
    """Like KeyboardInterrupt: nothing may catch it."""


def break_off(monkeypatch, at):
    """Lets the fit of a point, counted from 0, break off."""
    calls = iter(range(100))
    real = next_fit.fit

    def fit(*arguments, **more):
        if next(calls) == at:
            raise Interrupted
        return real(*arguments, **more)

    monkeypatch.setattr(next_fit, "fit", fit)


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_path_that_was_interrupted_gives_the_same_numbers(at, uninterrupted, tmp_path, monkeypatch):
    folder = tmp_path / "path"
    with monkeypatch.context() as patch:
        break_off(patch, at)
        with pytest.raises(Interrupted):
            quick(folder=folder)
    assert len(json.loads((folder / INDEX_FILE).read_text())["points"]) == at
    fitted = []
    real = next_fit.fit
    monkeypatch.setattr(next_fit, "fit", lambda *a, **k: fitted.append(real(*a, **k)) or fitted[-1])
    again = quick(folder=folder)
    assert len(fitted) == 3 - at  # what was finished is not fitted again
    assert same_fits(again.fit(30.0), uninterrupted.fit(30.0))
    xr.testing.assert_identical(without_clocks(again), without_clocks(uninterrupted))


def test_two_paths_that_differ_a_little_are_told_apart(uninterrupted):
    """The control of all tests here that find two paths to be the same."""
    other = quick(seed=5)
    assert not without_clocks(uninterrupted).identical(without_clocks(other))
    assert not same_fits(uninterrupted.fit(30.0), other.fit(30.0))


def test_a_run_that_was_killed_while_writing_loses_that_point_only(uninterrupted, tmp_path, monkeypatch):
    folder, real = tmp_path / "path", path_folder.write_json

    def write(file, index):
        if len(index["points"]) == 2:
            raise Interrupted
        real(file, index)

    with monkeypatch.context() as patch:
        patch.setattr(path_folder, "write_json", write)
        with pytest.raises(Interrupted):
            quick(folder=folder)
    (folder / ".point-002-abc12345").mkdir()  # what a fit that was being written leaves behind
    (folder / f".{INDEX_FILE}-abc").touch()
    assert (folder / "point-001").is_dir()  # written, but the index does not name it
    again = quick(folder=folder)
    xr.testing.assert_identical(without_clocks(again), without_clocks(uninterrupted))
    assert {file.name for file in folder.iterdir()} == {INDEX_FILE, "point-000", "point-001", "point-002"}


def test_further_values_go_on_from_the_last(uninterrupted, tmp_path):
    quick(values=(1.0, 5.0), folder=tmp_path / "path")
    longer = quick(folder=tmp_path / "path")
    xr.testing.assert_identical(without_clocks(longer), without_clocks(uninterrupted))


def test_a_finished_path_is_read_and_not_fitted(uninterrupted, tmp_path, monkeypatch):
    quick(folder=tmp_path / "path")
    break_off(monkeypatch, 0)
    again = quick(folder=tmp_path / "path", progress=True)  # watching is no other argument
    xr.testing.assert_identical(without_clocks(again), without_clocks(uninterrupted))
    loaded = bp.SparsityPath.load(tmp_path / "path", halo_at)
    assert loaded.table.identical(again.table)  # seconds included
    assert same_fits(loaded.fit(5.0), uninterrupted.fit(5.0))


OTHERS = {
    "epochs": ({"epochs": 3}, "epochs 1, but now it is 3"),
    "restarts": ({"restarts": 1}, "restarts 2, but now it is 1"),
    "a value": ({"values": (1.0, 4.0)}, r"values \[1.0, 5.0\], but now it is \[1.0, 4.0\]"),
    "fewer values": ({"values": (1.0,)}, r"values \[1.0, 5.0\], but now it is \[1.0\]"),
    "an argument of fit": ({"learning_rate": 0.1}, "fit .*0.02.*0.1"),
    "an optimizer of one's own": ({"optimizer": torch.optim.SGD}, "fit .*torch.optim.sgd.SGD"),
    "prunings": ({"prunings": None}, "prunings .*, but now it is None"),
    "validation data": ({"validation": TEST}, "validation .*, but"),
    "the prior": ({"model_at": lambda value: halo_at(2.0 * value)}, "fingerprints"),
    "the knob": ({"knob": "other"}, "knob knob, but now it is other"),
}


def test_other_arguments_are_refused_and_nothing_is_changed(tmp_path):
    folder = tmp_path / "path"
    quick(values=(1.0, 5.0), folder=folder)
    before = (folder / INDEX_FILE).read_bytes()
    for more, message in OTHERS.values():
        with pytest.raises(ValueError, match=f"holds a path with .*{message}.*choose another folder"):
            quick(**{"values": (1.0, 5.0), "folder": folder, **more})
    assert (folder / INDEX_FILE).read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="exists and is no path"):
        followed(folder=tmp_path)
    with pytest.raises(ValueError, match=f"is no path: it has no {INDEX_FILE}"):
        bp.SparsityPath.load(tmp_path, spike_at)
    (tmp_path / INDEX_FILE).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        bp.SparsityPath.load(tmp_path, spike_at)


def test_a_model_that_changed_is_refused_on_loading(tmp_path):
    quick(values=(5.0,), folder=tmp_path / "path")
    with pytest.raises(ValueError, match="the model at knob = 5 has changed since"):
        bp.SparsityPath.load(tmp_path / "path", lambda value: halo_at(value / 2))


REFUSED = {
    "no values": ({"values": ()}, "values of knob must be finite numbers, at least one"),
    "twice the same value": ({"values": (0.5, 0.5)}, "each once"),
    "no number": ({"values": (0.5, float("nan"))}, "finite"),
    "start": ({"start": None}, "start= is set by the path itself"),
    "no epochs": ({"epochs": 0}, "must be at least 1"),
    "no first epochs": ({"first_epochs": 0}, "must be at least 1, not 2, 0, 2"),
    "a declaration that is no JSON": ({"declaration": {"prior": len}}, "cannot be written to .* as JSON"),
    "no model": ({"model_at": lambda value: nn.Linear(2, 2)}, "returned a Linear: return a BayesianNetwork"),
    "the value is not used": ({"model_at": lambda value: spike_at(0.5)}, "the same model for two values .* 0.2"),
    "another structure": (
        {"model_at": lambda value: spike_at(0.5) if value == 0.5 else model_with(bp.SpikeAndSlab(value), classes=4)},
        "knob = 0.2 has other sites than that at 0.5",
    ),
    "no pruning": ({"prunings": []}, "at least one pruning"),
    "a pruning twice": ({"prunings": [{"sparsity": 0.5}, {"sparsity": 0.5}]}, "each once"),
    "a pruning of something else": ({"prunings": [{"restart": 1}]}, "a pruning is a mapping with some of"),
    "a criterion of one's own": ({"prunings": [{"sparsity": 0.5, "criterion": len}]}, "numbers or names"),
}  # fmt: skip


@pytest.mark.parametrize(("more", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_before_training(more, message, monkeypatch, tmp_path):
    break_off(monkeypatch, 0)
    with pytest.raises(ValueError, match=message):
        followed(**more, folder=tmp_path / "path")
    assert not (tmp_path / "path").exists()


# -- what is measured ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*all .* units are dead")
def test_gates_are_pruned_to_the_median_probability_model_and_scored(spike):
    assert spike.prunings == ({"min_inclusion": 0.5},)
    table = spike.table
    for value in (0.5, 0.05):
        for restart in (0, 1):
            pruned = bp.prune(spike.fit(value), min_inclusion=0.5, restart=restart)
            at = table.sel(value=value, restart=restart, pruning="min inclusion 0.5")
            weights = [pruned.network.get_parameter(name) for name in ("0.weight", "3.weight")]
            nonzero = sum(int((weight != 0).sum()) for weight in weights)
            assert (at.weights, at.nonzero, at.sparse_macs) == (63, nonzero, nonzero)
            assert float(at.sparsity) == pytest.approx(1 - nonzero / 63, abs=1e-15)
            assert float(at.density + at.sparsity) == pytest.approx(1.0, abs=1e-15)
            assert (at.dense_macs, at.parameters) == (63, 63 + 10)
            small = pruned.compact(X[:1]).network
            assert at.compact_parameters == sum(parameter.numel() for parameter in small.parameters())
            for split, (x, y) in {"validation": VALIDATION, "test": TEST}.items():
                logits = pruned.network(x).detach().log_softmax(-1)
                assert float(at.accuracy.sel(split=split)) == float((logits.argmax(-1) == y).double().mean())
                nll = -float(logits[torch.arange(len(y)), y].mean())
                assert float(at.nll.sel(split=split)) == pytest.approx(nll, abs=1e-6)
                assert float(at.fit_nll.sel(split=split)) == spike.fit(value).score(x, y, restart=restart)["nll"]
    assert not np.array_equal(table.nll.sel(split="test"), table.nll.sel(split="validation"))
    assert bool((table.seconds > 0).all()) and bool(table.latency.isnull().all())


def test_other_priors_are_pruned_to_a_ladder_of_sparsities(halo):
    labels = ["sparsity 0.5", "sparsity 0.8", "sparsity 0.9", "sparsity 0.95", "sparsity 0.98", "sparsity 0.99"]
    assert list(halo.table.pruning.values) == labels
    expected = [round(sparsity * 63) / 63 for sparsity in (0.5, 0.8, 0.9, 0.95, 0.98)]
    np.testing.assert_allclose(halo.table.sparsity.sel(value=1.0, restart=1)[:5], expected, rtol=0, atol=1e-15)


def test_sparsities_below_that_of_the_fit_are_left_out(spike):
    """A soft threshold makes zeros by itself, here of most weights."""

    def soft_at(value):
        return model_with(
            bp.Hierarchy(
                u=bp.Latent(dist.Normal(0.0, 1.0)),
                weight=lambda u: u.sign() * (u.abs() - value).clamp_min(0.0),
                included=bp.exact_zero(),
            )
        )

    path = followed(soft_at, (0.1, 1.5), guide="map", restarts=1)
    assert path.table.pruning.values[0] == "as fitted"
    for value in (0.1, 1.5):
        weights = path.fit(value).included_weights()
        zeros = sum(int((weight == 0).sum()) for weight in weights.values())
        at = path.table.sel(value=value, restart=0)
        assert int(at.nonzero.sel(pruning="as fitted")) == 63 - zeros and zeros > 0
        for pruning, sparsity in zip(at.pruning.values[1:], (0.5, 0.8, 0.9, 0.95, 0.98, 0.99), strict=True):
            assert bool(at.sparsity.sel(pruning=pruning).isnull()) == (round(sparsity * 63) < zeros)
    missing = path.table.sparsity.isnull()
    assert bool(missing.any()) and not bool(missing.sel(value=0.1).any())  # control: there is something to leave out
    assert len(str(path).splitlines()) == 1 + int((~missing).sum()) + 1


def test_batch_normalisation_gets_the_statistics_of_the_pruned_network():
    path = followed(lambda value: model_with(bp.HALO(kappa=value), norm=True), (1.0,), prunings=[{"sparsity": 0.8}])
    after = bp.prune(path.fit(1.0), sparsity=0.8, data=(X, Y)).network
    without = path.fit(1.0)
    without.inputs = None  # control: as a fit that was loaded
    before = bp.prune(without, sparsity=0.8).network
    x, y = TEST

    def nll(network):
        return nn.functional.cross_entropy(network(x), y).item()

    found = path.table.nll.sel(split="test", value=1.0, restart=0).item()
    assert found == pytest.approx(nll(after), abs=1e-6) and abs(found - nll(before)) > 1e-4


def test_latency_is_measured_where_it_is_asked_for():
    path = followed(halo_at, (1.0,), restarts=1, latency=True, prunings=[{"sparsity": 0.5}], epochs=1)
    assert 0 < path.table.latency.item() < 0.1 and path.table.latency_ratio.item() > 0


def test_a_network_that_cannot_be_made_compact_is_noted():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(x) if x.sum() > -1e9 else self.fc(-x)

    def branching_at(value):
        prior = bp.Hierarchy(weight=dist.Normal(0.0, value))
        return bp.BayesianNetwork(Branching(), {"fc.weight": prior}, data_size=SIZE)

    path = followed(branching_at, (1.0,), guide="map", restarts=1, prunings=[{"sparsity": 0.5}])
    assert bool(path.table.compact_macs.isnull().all()) and path.table.sparse_macs.item() == 9
    assert len(path.notes) == 1 and path.notes[0].startswith("compact networks could not be made: ")
    assert path.notes[0] in str(path)


# -- the front, and what is chosen ---------------------------------------------------------------------------


@pytest.fixture
def made_up():
    """A path whose numbers are known: 2 values x 2 restarts x 2 prunings of 100 weights."""
    sparsity = [[[0.5, 0.9], [0.5, 0.9]], [[0.5, 0.9], [0.5, 0.9]]]
    chosen = [[[0.95, 0.70], [0.85, 0.90]], [[0.88, 0.86], [0.90, 0.82]]]
    told = [[[0.60, 0.61], [0.62, 0.63]], [[0.64, 0.65], [0.66, 0.67]]]
    points = [
        {
            "seconds": 1.0,
            "notes": [],
            "fits": [dict.fromkeys(SCORES, 0.5)] * 2,
            "networks": [
                [
                    {
                        "sparsity": sparsity[v][r][p], "density": 1 - sparsity[v][r][p], "weights": 100,
                        "nonzero": round(100 * (1 - sparsity[v][r][p])), "dense_macs": 100, "sparse_macs": 10,
                        "compact_macs": 50, "parameters": 100, "compact_parameters": 60, "latency": None,
                        "latency_ratio": None, "validation_accuracy": chosen[v][r][p], "test_accuracy": told[v][r][p],
                        "validation_nll": 1.0, "test_nll": 1.0,
                    }
                    for p in range(2)
                ]
                for r in range(2)
            ],
        }
        for v in range(2)
    ]  # fmt: skip
    return bp.SparsityPath.of("knob", [1.0, 2.0], [{"sparsity": 0.5}, {"sparsity": 0.9}], points, {}.__getitem__)


def test_the_front_is_chosen_on_validation_data_and_reported_on_both(made_up):
    front = made_up.front()
    assert list(front["value"].values) == [1.0, 2.0]  # means on validation: .90 against .89, and .80 against .84
    assert list(front["pruning"].values) == ["sparsity 0.5", "sparsity 0.9"]
    np.testing.assert_allclose(front.accuracy.sel(split="validation"), [0.90, 0.84])
    np.testing.assert_allclose(front.accuracy.sel(split="test"), [0.61, 0.66])  # where the test data would say 2, 2
    np.testing.assert_allclose(front.accuracy_sd.sel(split="validation"), [0.1 / 2**0.5, 0.04 / 2**0.5])
    with pytest.raises(ValueError, match="has no score 'rmse': it has accuracy, nll"):
        made_up.front("rmse")
    with pytest.raises(ValueError, match="against='macs' is unknown: expected one of sparsity"):
        made_up.front(against="macs")
    with pytest.raises(ValueError, match="has no latency, it was not measured: make the path with latency=True"):
        made_up.front(against="latency")


def test_a_point_that_one_restart_lacks_is_not_on_the_front(made_up):
    made_up.table.accuracy.loc[{"restart": 1, "pruning": "sparsity 0.9"}] = np.nan
    made_up.table.sparsity.loc[{"restart": 1, "pruning": "sparsity 0.9"}] = np.nan
    assert list(made_up.front()["pruning"].values) == ["sparsity 0.5"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"sparsity": 0.5}, (1.0, 0, 0.5)),
        ({"sparsity": 0.6}, (1.0, 1, 0.9)),
        ({"value": 2.0}, (2.0, 1, 0.5)),
        ({"value": 2.0, "sparsity": 0.9}, (2.0, 0, 0.9)),
        ({"min_accuracy": 0.87}, (1.0, 1, 0.9)),
        ({"min_accuracy": 0.87, "value": 2.0}, (2.0, 1, 0.5)),
        ({"sparsity": 0.9, "restart": 0}, (2.0, 0, 0.9)),
    ],
)
def test_the_network_chosen_is_the_best_that_meets_what_is_asked(made_up, asked, expected):
    choice = made_up.choose(**asked)
    assert (choice.value, choice.restart, choice.pruning["sparsity"]) == expected
    assert choice.sparsity == choice.pruning["sparsity"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "give sparsity=, value= or min_accuracy="),
        ({"sparsity": 0.95}, "no network of the path meets that: sparsities go from 0.5000 to 0.9000"),
        ({"min_accuracy": 0.99}, "accuracy on validation data from 0.7000 to 0.9500"),
        ({"value": 3.0}, "no fit at knob = 3: its values are 1, 2"),
        ({"sparsity": 0.5, "restart": 2}, "there is no restart 2: this path has 2"),
    ],
)
def test_what_cannot_be_chosen_is_told(made_up, asked, message):
    with pytest.raises(ValueError, match=message):
        made_up.choose(**asked)


def test_a_sparsity_that_was_rounded_down_is_found_by_its_name():
    path = followed(halo_at, (1.0,), restarts=1, first_epochs=1, prunings=[{"sparsity": 0.704}])  # 44.35 of 63 weights
    assert path.table.sparsity.item() < 0.704
    assert path.choose(sparsity=0.704).sparsity == path.table.sparsity.item()
    with pytest.raises(ValueError, match="no network of the path"):
        path.choose(sparsity=0.71)


def test_prune_takes_a_path(halo):
    choice = halo.choose(sparsity=0.9)
    result = bp.prune(halo, sparsity=0.9)
    by_hand = bp.prune(halo.fit(choice.value), restart=choice.restart, **choice.pruning)
    for name, weight in by_hand.network.state_dict().items():
        assert torch.equal(result.network.state_dict()[name], weight)
    assert result.report.sparsity == choice.sparsity >= 0.9
    assert result.report.rule.endswith(f"at knob = {choice.value:g}, restart {choice.restart}")
    accuracy = float((result.network(VALIDATION[0]).argmax(-1) == VALIDATION[1]).double().mean())
    assert accuracy == choice.scores["validation_accuracy"]
    other = bp.prune(halo, value=31.0 - choice.value)
    assert not torch.equal(other.network[0].weight, result.network[0].weight)
    with pytest.raises(ValueError, match="say themselves how they are pruned"):
        bp.prune(halo, min_inclusion=0.5)
    with pytest.raises(ValueError, match="value= and min_accuracy= choose a network of a path"):
        bp.prune(halo.fit(1.0), value=1.0)


def test_a_regression_is_chosen_by_its_error():
    y = X[:, 0] - X[:, 1]
    torch.manual_seed(0)
    network = nn.Linear(6, 1)

    def linear_at(value):
        return bp.BayesianNetwork(network, {"weight": bp.HALO(kappa=value)}, bp.Normal(), data_size=SIZE)

    path = bp.sparsity_path(
        linear_at, (X, y), [1.0], knob="kappa", validation=(X, y), epochs=60, restarts=1,
        prunings=[{"sparsity": 0.5}, {"sparsity": 2 / 3}, {"sparsity": 0.8}], learning_rate=0.05, device="cpu",
    )  # fmt: skip
    assert path.score == "rmse" and "accuracy" not in path.table
    rmse = path.table.rmse.sel(split="validation").values.ravel()
    assert path.choose(value=1.0).scores["validation_rmse"] == rmse.min() < rmse.max()
    assert path.front()["pruning"].values[-1] == "sparsity 0.8"
    with pytest.raises(ValueError, match="this path has no accuracy"):
        path.choose(min_accuracy=0.5)


def test_the_printed_table_says_what_is_in_the_path(made_up):
    lines = str(made_up).splitlines()
    assert len(lines) == 1 + 4 + 1
    assert "0.9000 +- 0.0707" in lines[1] and lines[1].endswith("*")  # value 1, sparsity .5 on validation data
    assert [line.endswith("*") for line in lines[1:5]] == [True, False, False, True]
    assert "latency" not in lines[0] and "2 s of fitting" in lines[5]
