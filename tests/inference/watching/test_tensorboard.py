"""What the TensorBoard callback writes is what TensorBoard's own reader reads back."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import bayesprune as bp
from tests.oracles.own_loops import trained_by

SIZE = 40


def make(*callbacks, prior=None, **how):
    torch.manual_seed(0)
    x, y = torch.randn(SIZE, 6), torch.randint(3, (SIZE,))
    bnn = bp.BayesianNetwork(nn.Linear(6, 3), {"weight": prior or bp.SpikeAndSlab()}, data_size=SIZE)
    how = {"validation": (x, y), "batch_size": 10, "epochs": 5, "device": "cpu"} | how
    return bp.fit(bnn, (x, y), callbacks=callbacks, **how)


def read(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    found.Reload()
    return found


def scalars(folder):
    """Steps and values by tag."""
    found = read(folder)
    return {
        tag: ([e.step for e in found.Scalars(tag)], np.array([e.value for e in found.Scalars(tag)]))
        for tag in found.Tags()["scalars"]
    }


def test_every_epoch_of_the_trace_is_read_back(tmp_path):
    fit = make(bp.TensorBoard(tmp_path / "runs" / "tb"))
    found, trace = scalars(tmp_path / "runs" / "tb"), fit.trace.isel(restart=0)
    expected = {name: trace[name] for name in ("loss", "expected_log_likelihood", "kl", "kl_weight", "learning_rate")}
    expected |= {"sparsity/network": trace.network_sparsity, "sparsity/weight": trace.sparsity.sel(tensor="weight")}
    expected |= {"kl/weight": trace.kl_of.sel(tensor="weight")}
    expected |= {f"validation/{name}": trace[f"validation_{name}"] for name in ("accuracy", "nll")}
    assert set(found) == {*expected, "negative_elbo"}
    for name, values in expected.items():
        assert found[name][0] == [4, 8, 12, 16, 20]
        np.testing.assert_allclose(found[name][1], values, rtol=1e-6)
    assert not np.allclose(found["loss"][1], trace.kl)  # control
    assert found["negative_elbo"][0] == trace.iterate_step.values.tolist()
    np.testing.assert_allclose(found["negative_elbo"][1], trace.negative_elbo, rtol=1e-6)


def test_the_histogram_is_that_of_the_inclusion_probabilities(tmp_path):
    fit = make(bp.TensorBoard(tmp_path))
    found = read(tmp_path)
    (tag,) = found.Tags()["histograms"]
    assert tag == "inclusion/weight" and len(found.Histograms(tag)) == 5
    last = found.Histograms(tag)[-1].histogram_value
    p = fit.inclusion_probabilities()["weight"].values
    assert last.num == p.size == sum(last.bucket)
    # A reader may leave out empty bins at the ends.
    counts = np.histogram(p, np.linspace(0, 1, 21))[0]
    wide = {round(limit, 6): count for limit, count in zip(last.bucket_limit, last.bucket, strict=True) if count}
    edges = np.linspace(0, 1, 21)[1:]
    assert wide == {round(edge, 6): count for edge, count in zip(edges, counts, strict=True) if count}
    assert abs(last.sum / last.num - p.mean()) < 0.5 / 20
    make(bp.TensorBoard(tmp_path / "other"), prior=bp.Gaussian())
    assert read(tmp_path / "other").Tags()["histograms"] == []  # without gates there are none


def test_points_between_epochs_are_few(tmp_path):
    make(bp.TensorBoard(tmp_path, every=7))
    assert scalars(tmp_path)["negative_elbo"][0] == [7, 14]


def test_several_restarts_have_a_folder_each(tmp_path):
    fit = make(bp.TensorBoard(tmp_path), restarts=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["restart-0", "restart-1"]
    for number in (0, 1):
        np.testing.assert_allclose(
            scalars(tmp_path / f"restart-{number}")["loss"][1], fit.trace.loss.isel(restart=number), rtol=1e-6
        )


def test_a_fit_is_the_same_with_and_without(tmp_path):
    one, other = make(bp.TensorBoard(tmp_path)), make()
    for name, value in one.guide.state_dict().items():
        assert torch.equal(value, other.guide.state_dict()[name])


class Break(bp.Callback):
    is_resumable = True

    def __init__(self, step):
        self.step = step

    def on_step(self, state):
        if state.step == self.step:
            raise KeyboardInterrupt


def test_an_interrupted_fit_that_goes_on_has_every_point_once(tmp_path, monkeypatch):
    """Its state is a few epochs old: what was written since is written again."""
    from bayesprune.inference.training import checkpoint

    monkeypatch.setattr(checkpoint, "SHARE", 1.0)
    monkeypatch.setattr(checkpoint, "LEAST", 0.0)
    writes = []
    original = checkpoint.Checkpoint.write

    def first_two(self, state, *more, **how):
        writes.append(state.epoch)
        if len(writes) <= 2:
            original(self, state, *more, **how)

    monkeypatch.setattr(checkpoint.Checkpoint, "write", first_two)
    with pytest.raises(KeyboardInterrupt):
        make(bp.TensorBoard(tmp_path / "tb"), Break(18), checkpoint=tmp_path / "state")
    before = scalars(tmp_path / "tb")
    assert before["loss"][0] == [4, 8, 12, 16] and len(writes) == 4  # beyond the state, at step 8
    fit = make(bp.TensorBoard(tmp_path / "tb"), Break(99), checkpoint=tmp_path / "state")
    assert fit.settings["resumed_at_epoch"] is not None
    for name in ("loss", "negative_elbo"):
        steps, values = scalars(tmp_path / "tb")[name]
        at = [4, 8, 12, 16, 20] if name == "loss" else list(range(1, 21))
        assert steps == at
        np.testing.assert_allclose(values, fit.trace[name].values[0], rtol=1e-5)


def test_a_new_fit_takes_the_place_of_one_that_wrote_there_before(tmp_path):
    make(bp.TensorBoard(tmp_path), seed=1)
    fit = make(bp.TensorBoard(tmp_path), epochs=3)
    steps, values = scalars(tmp_path)["loss"]
    assert steps == [4, 8, 12]
    np.testing.assert_allclose(values, fit.trace.loss.values[0], rtol=1e-6)


@pytest.mark.parametrize("way", ["torch", "svi"])
def test_a_loop_of_one_s_own_writes_too(tmp_path, way, monkeypatch):
    made, original = [], bp.Record

    def with_board(loss, optimizer=None):
        made.append(original(loss, optimizer, callbacks=[bp.TensorBoard(tmp_path, every=2)]))
        return made[-1]

    monkeypatch.setattr(bp, "Record", with_board)
    x, y = torch.randn(SIZE, 6), torch.randint(3, (SIZE,))
    bnn = bp.BayesianNetwork(nn.Linear(6, 3), {"weight": bp.SpikeAndSlab()}, data_size=SIZE)
    loss, record = trained_by(way, bnn, (x, y), epochs=3, batch_size=10)
    with record:
        pass
    found, fit = scalars(tmp_path), bp.Fit.of(loss, (x, y), record)
    assert found["loss"][0] == [4, 8, 12]
    np.testing.assert_allclose(found["loss"][1], fit.trace.loss.values[0], rtol=1e-6)
    assert found["negative_elbo"][0] == [2, 4, 6, 8, 10, 12]
    assert ("learning_rate" in found) is (way == "torch")


@pytest.mark.filterwarnings("ignore:the noise of theta:UserWarning")  # a short fit
def test_gates_of_units_write_how_many_are_left(tmp_path):
    torch.manual_seed(0)
    x, y = torch.randn(SIZE, 6), torch.randint(3, (SIZE,))
    layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    gates = bp.UnitGates(kappa=1e-6)
    bnn = bp.BayesianNetwork(layers, {}, data_size=SIZE, gates=gates, example_input=x[:1])
    fit = bp.fit(bnn, (x, y), epochs=4, callbacks=[bp.TensorBoard(tmp_path)], device="cpu")
    found = {tag: values for tag, values in scalars(tmp_path).items() if tag.startswith("units_left/")}
    assert {tag.removeprefix("units_left/") for tag in found} == set(fit.trace.unit_group.values.tolist())
    assert all(len(values) == 4 and values[0] <= 8 for _, values in found.values())


def test_a_missing_package_is_one_sentence_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"^[^:]*not installed: pip install bayesprune\[tensorboard\]$"):
        bp.TensorBoard(tmp_path)


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to .*choose a folder"):
        bp.TensorBoard(tmp_path / "file" / "runs")
    with pytest.raises(ValueError, match="at least 1, not 0"):
        bp.TensorBoard(tmp_path, every=0)
    with pytest.raises(ValueError, match="^every must be a whole number, not .x.: give an int"):
        bp.TensorBoard(tmp_path, every="x")
    assert type(bp.TensorBoard(tmp_path, every=3.0).every) is int  # control


def test_a_disk_that_fails_is_told_once_and_the_fit_goes_on(tmp_path, monkeypatch):
    board = bp.TensorBoard(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(board, "_write_epoch", full)
    with pytest.warns(UserWarning, match="No space left on device.*: the fit goes on without it") as told:
        fit = make(board)
    assert len(told) == 1 and fit.trace.sizes["epoch"] == 5
