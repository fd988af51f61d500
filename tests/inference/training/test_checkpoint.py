"""Checkpoints: a fit that was interrupted ends with the numbers of one that was not, to the last bit."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import bayesprune as bp
from bayesprune.inference.rules.gate_training import GateTraining
from bayesprune.inference.training import checkpoint as checkpoints
from bayesprune.inference.training import packed_state
from tests.test_documentation import code_blocks

pytestmark = pytest.mark.filterwarnings(
    "ignore:all units of:UserWarning", "ignore:the noise of theta's gradient:UserWarning"
)


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """States are written after every epoch, whatever it costs."""
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)


SIZE = 60
torch.manual_seed(1)
X = torch.randn(SIZE, 6)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()


class Pairs(Dataset):
    """The data one by one, with noise on the inputs."""

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return X[index] + 0.1 * torch.randn(6), Y[index]


class Interrupt(bp.Callback):
    """Breaks a fit off in the middle of an epoch."""

    is_resumable = True

    def __init__(self, restart, step):
        self.restart, self.step = restart, step

    def on_step(self, state):
        if (state.restart, state.step) == (self.restart, self.step):
            self.end()

    def end(self):
        raise KeyboardInterrupt


class CountSteps(bp.Callback):
    is_resumable = True

    def __init__(self):
        self.steps = 0

    def on_step(self, state):
        self.steps += 1


def layers(norm=False):
    torch.manual_seed(3)
    first = [nn.Linear(6, 20), *([nn.BatchNorm1d(20)] if norm else []), nn.ReLU()]
    return nn.Sequential(*first, nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 2))


def convolutions():
    torch.manual_seed(3)
    first = [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 2), nn.ReLU()]
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.ZeroPad2d(1), *first, nn.Flatten(), nn.LazyLinear(2))


class Block(nn.Module):
    """A residual branch of two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(10, 10), nn.Linear(10, 10)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))


def branches():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(6, 10), Block(), nn.ReLU(), Block(), nn.ReLU(), nn.Linear(10, 2))
    return bp.BayesianNetwork(network, {}, None, SIZE, bp.UnitGates(kappa=0.004, weight_scale=0.3, layers=True), X[:1])


def model(prior=None, norm=False, gates=None):
    return bp.BayesianNetwork(
        layers(norm), {} if gates else {"*.weight": prior or bp.Gaussian()}, None, SIZE, gates, X[:1]
    )


def convolutional():
    network = convolutions().eval()
    network(X)
    return bp.BayesianNetwork(
        network.to(memory_format=torch.channels_last), {"7.weight": bp.Gaussian()}, data_size=SIZE
    )


def annealed():
    """A scale that falls as the fit goes on."""
    return bp.Hierarchy(weight=lambda progress: dist.Normal(0.0, 2.0 - progress))


@dataclass
class Case:
    """A fit, and where it is broken off."""

    make: Any = model
    guide: Any = "map"
    at: tuple[int, int] = (0, 11)
    arguments: dict[str, Any] = field(default_factory=dict)
    data: Any = (X, Y)

    def fit(self, **more):
        own = {
            "epochs": 6,
            "batch_size": 16,
            "learning_rate": 2e-2,
            "device": "cpu",
            "execution": "plain",
            **self.arguments,
        }
        return bp.fit(self.make(), self.data, self.guide, **{**own, **more})

    def interrupted(self, folder, at=None, **more):
        with pytest.raises(KeyboardInterrupt):
            self.fit(checkpoint=folder, callbacks=[Interrupt(*(at or self.at))], **more)

    def resumed(self, folder):
        self.interrupted(folder)
        return self.fit(checkpoint=folder)


def gated(norm=False, **gating):
    make = functools.partial(model, norm=norm, gates=bp.UnitGates(kappa=0.003, weight_scale=0.3))
    return {"make": make, "guide": None, "arguments": {"epochs": 14, "rules": [bp.Gating(**{"delay": 0.0, **gating})]}}


CASES = {
    "map": Case(),
    "HALO": Case(lambda: model(bp.HALO()), None),
    "mean field": Case(lambda: model(bp.Horseshoe()), "meanfield", arguments={"validation": (X[:9], Y[:9])}),
    "spike and slab": Case(lambda: model(bp.SpikeAndSlab()), None),
    "annealed": Case(lambda: model(annealed()), "meanfield"),
    "normalisation": Case(lambda: bp.BayesianNetwork(layers(True), {"3.weight": bp.Gaussian()}, data_size=SIZE)),
    "learned noise": Case(
        lambda: bp.BayesianNetwork(layers(), {"*.weight": bp.Gaussian()}, bp.Normal(), data_size=SIZE),
        data=(X, torch.stack([X[:, 0], X[:, 1]], 1)),
    ),
    "two restarts": Case(guide="meanfield", at=(1, 11), arguments={"restarts": 2}),
    "momentum": Case(arguments={"optimizer": "sgd", "clip": 1.0}),
    "own optimizer": Case(arguments={"optimizer": lambda groups: torch.optim.NAdam(groups, lr=0.01)}),
    "channels last": Case(convolutional),
    "data set": Case(guide="meanfield", data=Pairs()),
    "loader": Case(guide="meanfield", data=DataLoader(Pairs(), 16, shuffle=True)),
    "gates": Case(**gated(travel=0.5), at=(0, 23)),
    "gates and normalisation": Case(**gated(norm=True, travel=0.5), at=(0, 26)),
    "gates by steps": Case(**gated(norm=True, remove=7, patience=6, round_at=None), at=(0, 26)),
    "gates of branches": Case(**{**gated(travel=0.5), "make": branches}, at=(0, 23)),
    "attracted": Case(**gated(norm=True, rule="attracted"), at=(0, 3)),
}
SLOW = ("own optimizer", "gates and normalisation", "gates by steps", "gates of branches")
CASES["attracted"].arguments["batch_size"] = 50  # so that batches of the epoch before are looked at


def tensors(fit):
    """All that was learned, by restart and name."""
    found = {}
    for number, one in enumerate(fit.restarts):
        for part in (one.model, one.guide):
            found |= {(number, type(part), name): value.detach() for name, value in part.named_parameters()}
            found |= {(number, type(part), name): value for name, value in part.named_buffers()}
    return found


def is_same(one, other):
    """Whether two fits are the same but for the time that they took."""
    mine, theirs = tensors(one), tensors(other)
    timed = ("seconds", "execution", "resumed_at_epoch")
    return (
        mine.keys() == theirs.keys()
        and all(torch.equal(value, theirs[key]) for key, value in mine.items())
        and [a.model.plan for a in one.restarts] == [b.model.plan for b in other.restarts]
        and [a.guide.notes for a in one.restarts] == [b.guide.notes for b in other.restarts]
        and one.trace.drop_vars("seconds").identical(other.trace.drop_vars("seconds"))
        and {**one.settings, **dict.fromkeys(timed)} == {**other.settings, **dict.fromkeys(timed)}
        and one.settings["execution"]["reason"] == other.settings["execution"]["reason"]
    )


@functools.cache
def whole(name):
    """The fit of a case that was not interrupted."""
    return CASES[name].fit()


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_a_fit_that_was_interrupted_ends_as_one_that_was_not(name, tmp_path):
    assert is_same(CASES[name].resumed(tmp_path / "fit"), whole(name))


@pytest.mark.parametrize("name", ["map", "mean field", "gates"])
def test_another_seed_does_not(name):
    assert not is_same(CASES[name].fit(seed=5), whole(name))


def test_the_cases_with_gates_remove_units_before_and_after_the_interruption():
    gated_cases = [name for name in CASES if name.startswith(("gates", "attracted"))]
    assert len(gated_cases) == 5
    for name in gated_cases:
        case, report = CASES[name], whole(name).settings["gating"][0]
        steps = [one["step"] for one in report["removals"]]
        in_epoch = case.at[1] % (2 if name == "attracted" else 4)
        assert min(steps) <= case.at[1] - in_epoch and max(steps) > case.at[1]
    assert whole("gates of branches").model.plan["branches_removed"]


@pytest.mark.parametrize(
    ("name", "place", "forgotten"),
    [
        ("mean field", checkpoints.Checkpoint, "restore_random_state"),
        ("map", checkpoints, "restore_optimizer"),
    ],
)
def test_what_is_kept_is_needed(name, place, forgotten, tmp_path, monkeypatch):
    monkeypatch.setattr(place, forgotten, lambda *_: None)
    assert not is_same(CASES[name].resumed(tmp_path / "fit"), whole(name))


@pytest.mark.parametrize(
    ("name", "key", "nothing"),
    [("gates by steps", "at_zero", torch.zeros_like), ("attracted", "recent", lambda _: [])],
)
def test_what_is_kept_of_gates_is_needed(name, key, nothing, tmp_path, monkeypatch):
    original = GateTraining.load_state_dict

    monkeypatch.setattr(
        GateTraining, "load_state_dict", lambda self, kept: original(self, {**kept, key: nothing(kept[key])})
    )
    assert not is_same(CASES[name].resumed(tmp_path / "fit"), whole(name))


def test_interruptions_may_be_many(tmp_path):
    for step in (2, 6, 21, 22, 30, 55):
        CASES["gates"].interrupted(tmp_path / "fit", (0, step))
    assert is_same(CASES["gates"].fit(checkpoint=tmp_path / "fit"), whole("gates"))


def test_a_fit_is_the_same_with_checkpoints_and_a_finished_one_is_not_trained_again(tmp_path):
    case, counter = CASES["two restarts"], CountSteps()
    assert is_same(case.fit(checkpoint=tmp_path / "fit", callbacks=[counter]), whole("two restarts"))
    assert counter.steps == 48
    assert is_same(case.fit(checkpoint=tmp_path / "fit", callbacks=[counter]), whole("two restarts"))
    assert counter.steps == 48
    names = sorted(path.name for path in (tmp_path / "fit").iterdir())
    assert names == [
        "checkpoint.json",
        *(f"restart-{n}{end}" for n in (0, 1) for end in ("-step-24.safetensors", ".json")),
    ]


def test_only_the_epoch_in_work_is_trained_again(tmp_path):
    case, counter = CASES["two restarts"], CountSteps()
    case.interrupted(tmp_path / "fit")  # at step 11 of the second restart, 4 an epoch
    case.fit(checkpoint=tmp_path / "fit", callbacks=[counter])
    assert counter.steps == 24 - 8


def test_a_rule_that_stops_is_kept(tmp_path):
    def at_epoch_four(state):
        return state.epoch == 4

    at_epoch_four.is_resumable = True
    case, counter = Case(arguments={"stop": at_epoch_four}), CountSteps()
    stopped = case.fit()
    assert stopped.settings["stopped_early"] == [{"restart": 0, "step": 16, "steps": 24, "reason": ""}]
    assert is_same(case.resumed(tmp_path / "fit"), stopped)
    assert is_same(case.fit(checkpoint=tmp_path / "fit", callbacks=[counter]), stopped) and counter.steps == 0


def test_a_run_killed_while_it_writes_keeps_the_epoch_before(tmp_path, monkeypatch):
    case, written = CASES["mean field"], []

    def killed(file, content, indent=2):
        written.append(file)
        if len(written) == 4:
            raise KeyboardInterrupt
        write_json(file, content, indent)

    write_json = checkpoints.write_json
    monkeypatch.setattr(checkpoints, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        case.fit(checkpoint=tmp_path / "fit")
    assert len(list((tmp_path / "fit").glob("*.safetensors"))) == 2  # that of the epoch before, and the new one
    assert is_same(case.fit(checkpoint=tmp_path / "fit"), whole("mean field"))
    assert len(list((tmp_path / "fit").glob("*.safetensors"))) == 1


def test_numbers_that_are_not_finite_are_kept(tmp_path):
    values = {"a": [float("inf"), float("-inf"), 1.5], "b": np.array([np.nan, 0.1], np.float32), "c": {"$d": True}}
    held = {}
    packed = json.loads(json.dumps(packed_state.packed(values, held), allow_nan=False))
    back = packed_state.unpacked(packed, held)
    assert back["a"] == values["a"] and back["c"] == values["c"]
    np.testing.assert_array_equal(back["b"], values["b"])
    with pytest.raises(ValueError, match="not set, which the optimizer"):
        packed_state.packed({"a": {1}}, {})


def test_the_trace_that_is_written_meanwhile_has_the_restarts_of_before(tmp_path):
    case = CASES["two restarts"]
    case.interrupted(tmp_path / "fit")
    resumed = case.fit(checkpoint=tmp_path / "fit", callbacks=[bp.WriteTrace(tmp_path / "trace")])
    written = bp.read_trace(tmp_path / "trace")
    np.testing.assert_array_equal(written["loss"], resumed.trace["loss"])
    assert written["loss"].shape == (2, 6)


def test_a_fused_execution_is_taken_again(tmp_path):
    case = Case(guide="meanfield", arguments={"execution": "fused", "compiled": False})
    once, resumed = case.fit(), case.resumed(tmp_path / "fit")
    for key, value in tensors(once).items():
        torch.testing.assert_close(tensors(resumed)[key], value, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(tensors(case.fit(seed=1))[key], value, rtol=1e-4, atol=1e-5)  # control
    for name in ("name", "reason", "fused_steps", "plain_steps"):
        assert resumed.settings["execution"][name] == once.settings["execution"][name]
    assert resumed.settings["execution"]["name"] == "fused"


def test_the_execution_of_an_automatic_choice_is_taken_again(tmp_path):
    case = Case(guide="meanfield", arguments={"execution": "auto"})
    case.interrupted(tmp_path / "fit")
    kept = json.loads((tmp_path / "fit" / "restart-0.json").read_text())["kept"]["execution"]
    resumed = case.fit(checkpoint=tmp_path / "fit").settings["execution"]
    assert (resumed["name"], resumed["reason"]) == ("plain", kept["reason"])
    assert resumed["plain_ms"] == round(kept["plain_ms"], 3) > 0  # it was not timed anew


def test_the_page_on_checkpoints_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = code_blocks("docs/checkpoints.md")
    spaces = {}, {}
    for space in spaces:
        exec(compile(block, "docs/checkpoints.md", "exec"), space)
    assert is_same(spaces[0]["fit"], spaces[1]["fit"]) and (tmp_path / "runs" / "checkpoint").is_dir()


# -- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "more", "said"),
    [
        (Case(lambda: model(bp.Horseshoe())), {}, "a fit with model"),
        (Case(data=(X + 1e-6, Y)), {}, "a fit with data"),
        (Case(), {"seed": 1}, "a fit with seed 0, but now it is 1"),
        (Case(), {"epochs": 7}, "a fit with steps 24, but now it is 28"),
        (Case(), {"validation": (X[:8], Y[:8])}, "a fit with validation"),
        (Case(guide="meanfield"), {}, "a fit with guide"),
        (Case(), {"restarts": 2}, "a fit with restarts 1"),
    ],
)
def test_another_model_other_data_or_another_argument_is_refused(other, more, said, tmp_path):
    Case().interrupted(tmp_path / "fit")
    before = {path.name: path.read_bytes() for path in (tmp_path / "fit").iterdir()}
    with pytest.raises(ValueError, match=said):
        other.fit(checkpoint=tmp_path / "fit", **more)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "fit").iterdir()}
    assert is_same(Case().fit(checkpoint=tmp_path / "fit"), whole("map"))  # control: the same is not


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (gated(), gated(travel=0.3), r"a fit with rule gating .*'travel': 0.25, .*, but now it is .*'travel': 0.3"),
        (gated(), {**gated(), "make": lambda: model(gates=bp.UnitGates(kappa=0.002))}, "a fit with gates"),
    ],
)
def test_other_gates_are_refused(one, other, said, tmp_path):
    Case(**one).interrupted(tmp_path / "fit")
    with pytest.raises(ValueError, match=said):
        Case(**other).fit(checkpoint=tmp_path / "fit")


def test_the_fit_of_a_warm_start_counts(tmp_path):
    first, second = Case().fit(), Case().fit(seed=3)
    Case().interrupted(tmp_path / "fit", start=first)
    with pytest.raises(ValueError, match="a fit with start"):
        Case().fit(checkpoint=tmp_path / "fit", start=second)
    assert is_same(Case().fit(checkpoint=tmp_path / "fit", start=first), Case().fit(start=first))


def _cut_short(folder, pattern="*.safetensors"):
    file = next(folder.glob(pattern))
    file.write_bytes(file.read_bytes()[:-5])


def _change_a_tensor(folder):
    file = next(folder.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def _change_a_number(folder):
    file = folder / "restart-0.json"
    found = json.loads(file.read_text())
    found["kept"]["counts"]["epoch"] += 1
    file.write_text(json.dumps(found))


def _change_the_format(folder):
    file = folder / "checkpoint.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 0'))


@pytest.mark.parametrize(
    "damage",
    [
        _cut_short,
        lambda folder: _cut_short(folder, "restart-0.json"),
        lambda folder: next(folder.glob("*.safetensors")).unlink(),
        _change_a_tensor,
        _change_a_number,
        _change_the_format,
    ],
    ids=["short", "short JSON", "lost", "tensor", "number", "format"],
)
def test_a_damaged_file_is_refused(damage, tmp_path):
    Case().interrupted(tmp_path / "fit")
    damage(tmp_path / "fit")
    with pytest.raises(ValueError, match=r"is (missing|damaged \(.+\)): begin the fit anew in another folder"):
        Case().fit(checkpoint=tmp_path / "fit")


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and holds no checkpoint"):
        Case().fit(checkpoint=tmp_path)
    with pytest.raises(ValueError, match="cannot be written"):
        Case().fit(checkpoint=tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_checkpoint_json_of_another_program_is_left_alone(tmp_path):
    for content in ('{"step": 3}', "[1]", "no JSON"):
        (tmp_path / "checkpoint.json").write_text(content)
        with pytest.raises(ValueError, match="exists and holds no checkpoint: choose another folder"):
            Case().fit(checkpoint=tmp_path)
        assert (tmp_path / "checkpoint.json").read_text() == content


def test_a_call_that_finished_no_epoch_binds_nobody(tmp_path):
    with pytest.raises(ValueError, match="guide 'maps' is unknown"):
        Case(guide="maps").fit(checkpoint=tmp_path)
    Case().interrupted(tmp_path, (0, 2), seed=3)
    assert is_same(Case().fit(checkpoint=tmp_path), whole("map"))


@pytest.mark.parametrize(
    ("more", "who"),
    [
        ({"stop": bp.until_converged()}, "UntilConverged"),
        ({"stop": lambda state: False}, "<lambda>"),
    ],
)
def test_what_remembers_something_itself_is_refused(more, who, tmp_path):
    with pytest.raises(ValueError, match=f"cannot keep what {who} remembers"):
        Case().fit(checkpoint=tmp_path / "fit", **more)
    assert not (tmp_path / "fit").exists()


def test_a_loader_with_a_random_state_of_its_own_is_refused(tmp_path):
    loader = DataLoader(Pairs(), 16, shuffle=True, generator=torch.Generator())
    with pytest.raises(ValueError, match="a loader's own generator"):
        Case(data=loader).fit(checkpoint=tmp_path / "fit")
