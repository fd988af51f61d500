from __future__ import annotations

import copy
import importlib
import logging
import pathlib
import warnings

import pytest
import torch
import torchvision
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from bayesprune.models.deployment.onnx_export import export_onnx  # noqa: E402
from bayesprune.models.networks.lenet import lenet_5, lenet_300_100  # noqa: E402
from bayesprune.models.units.compact import compact  # noqa: E402


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        x, _ = self.lstm(x)
        return self.fc(x[:, -1])


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.bn = nn.Linear(4, 3), nn.BatchNorm1d(3)

    def forward(self, left, right):
        x = self.bn(self.fc(left))
        return x.view(x.shape[0], -1) * right, {"sum": x + right}


def run(file, *inputs):
    """Outputs by onnxruntime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [slot.name for slot in session.get_inputs()]
    feed = dict(zip(names, [x.numpy() for x in inputs], strict=True))
    return names, [torch.as_tensor(output) for output in session.run(None, feed)]


def check(network, file, *shapes, tolerance=1e-5):
    """Compares with the network, and with the network in float64: as near to it as PyTorch's own float32 is."""
    network = network.eval()
    exact = copy.deepcopy(network).double()
    for batch in (1, 2, 7):
        inputs = [torch.randn(batch, *shape) for shape in shapes]
        _, found = run(file, *inputs)
        with torch.no_grad():
            expected = torch.utils._pytree.tree_leaves(network(*inputs))
            true = torch.utils._pytree.tree_leaves(exact(*(x.double() for x in inputs)))
        assert len(found) == len(expected)
        for one, other, best in zip(found, expected, true, strict=True):
            assert one.shape == other.shape and one.dtype == torch.float32
            sd = float(best.std())
            assert float((one - other).abs().max()) < tolerance * sd
            assert float((one - best).abs().max()) < 10 * float((other - best).abs().max()) + 1e-6 * sd


def seen_to_fail(network, file, *shapes, tolerance=1e-5):
    """Control: a network with one weight of the first layer changed by its sd is told from the file."""
    network = copy.deepcopy(network)
    weight = next(network.parameters())
    with torch.no_grad():
        weight.view(-1)[0] += weight.std()
    with pytest.raises(AssertionError):
        check(network, file, *shapes, tolerance=tolerance)


@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        pytest.param(lenet_300_100, [(784,)], id="lenet-300-100", marks=pytest.mark.slow),
        pytest.param(lenet_5, [(1, 28, 28)], id="lenet-5"),
        pytest.param(Two, [(4,), (3,)], id="two inputs"),
    ],
)
def test_onnxruntime_gives_what_the_network_gives_at_any_batch_size(build, shapes, tmp_path):
    network = build()
    given = tuple(torch.randn(1, *shape) for shape in shapes)
    file = export_onnx(network, given if len(given) > 1 else given[0], tmp_path / "new" / "network.onnx")
    assert [path.name for path in file.parent.iterdir()] == ["network.onnx"]  # one file, nothing beside it
    check(network, file, *shapes)
    seen_to_fail(network, file, *shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "mobilenet_v2", "densenet121", "googlenet", "squeezenet1_1"])
def test_onnxruntime_gives_what_torchvision_networks_give(name, tmp_path):
    options = {"init_weights": False} if name == "googlenet" else {}
    network = getattr(torchvision.models, name)(num_classes=10, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(16, 3, 64, 64))
    file = export_onnx(network, torch.randn(1, 3, 64, 64), tmp_path / "network.onnx")
    # Untrained networks of this depth magnify rounding, PyTorch's as much as onnxruntime's.
    check(network, file, (3, 64, 64), tolerance=2e-4)
    seen_to_fail(network, file, (3, 64, 64), tolerance=2e-4)


@pytest.mark.slow
def test_onnxruntime_gives_what_a_recurrent_network_gives(tmp_path):
    network = Recurrent()
    file = export_onnx(network, torch.randn(1, 5, 3), tmp_path / "network.onnx")
    check(network, file, (5, 3))
    seen_to_fail(network, file, (5, 3))


class OwnZeros(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(torch.cat([self.a(x).relu() + torch.zeros(x.shape[0], 6), torch.zeros(x.shape[0], 2)], 1))


def test_a_network_that_makes_zeros_is_exported_after_it_was_cut(tmp_path):
    torch.manual_seed(0)
    network = OwnZeros()
    with torch.no_grad():
        network.a.weight[2:4], network.a.bias[2:4] = 0.0, 0.0
    small = compact(network, torch.randn(2, 4)).network
    assert small.a.weight.shape == (4, 4)
    export_onnx(small, torch.randn(1, 4), tmp_path / "small.onnx")
    for batch in (1, 7):
        x = torch.randn(batch, 4)
        _, (found,) = run(tmp_path / "small.onnx", x)
        torch.testing.assert_close(found, network(x).detach())
        assert not torch.allclose(found, network(x + 1.0).detach(), atol=1e-3)  # control


def test_an_export_is_quiet_replaces_the_file_and_leaves_the_network(tmp_path, capfd, caplog):
    network, file = Two().train(), tmp_path / "network.onnx"
    before = copy.deepcopy(network.state_dict())
    file.touch()  # what holds nothing may go
    filters, disabled = list(warnings.filters), logging.root.manager.disable
    with caplog.at_level(logging.DEBUG):
        export_onnx(network, (torch.randn(3, 4), torch.randn(3, 3)), file)
    assert capfd.readouterr() == ("", "")
    assert warnings.filters == filters and logging.root.manager.disable == disabled
    assert network.training
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    names, outputs = run(file, torch.randn(2, 4), torch.randn(2, 3))
    assert names == ["left", "right"] and len(outputs) == 2
    assert list(tmp_path.iterdir()) == [file]


def test_an_onnx_file_is_replaced_and_another_one_is_not(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "earlier", [], [])
    earlier = onnx.helper.make_model(graph, producer_name="someone").SerializeToString()
    monkeypatch.setattr(
        "bayesprune.models.deployment.onnx_export._export", lambda *given: pathlib.Path(given[2]).write_bytes(earlier)
    )
    monkeypatch.setattr("bayesprune.models.deployment.onnx_export._compare", lambda *_: None)
    file = tmp_path / "network.onnx"
    for _ in range(2):
        assert export_onnx(nn.Linear(4, 2), torch.randn(2, 4), file).read_bytes() == earlier
    for content in (b"\\documentclass{book}", b"\x00" * 40, earlier[: len(earlier) // 2] + b"\xff" * 9):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is not an ONNX file, so it is not replaced"):
            export_onnx(nn.Linear(4, 2), torch.randn(2, 4), file)
        assert file.read_bytes() == content and list(tmp_path.iterdir()) == [file]
    (tmp_path / "link.onnx").symlink_to(file)
    with pytest.raises(ValueError, match="is a link to"):
        export_onnx(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "link.onnx")


def test_an_onnx_export_that_fails_at_its_end_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bayesprune.models.deployment.onnx_export._export", lambda *given: pathlib.Path(given[2]).touch()
    )
    monkeypatch.setattr("bayesprune.models.deployment.onnx_export._compare", lambda *_: None)

    def fail(source, target):
        pathlib.Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(source), None, str(target))

    monkeypatch.setattr("shutil.copyfile", fail)
    with pytest.raises(OSError, match="network.onnx cannot be written .No space left on device.: make room there"):
        export_onnx(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("network", "given", "message"),
    [
        (Branch(), torch.randn(2, 4), "cannot be exported to ONNX"),
        (Noise(), torch.randn(2, 4), "does not give what the network gives"),
        (nn.Conv1d(2, 3, 2, dtype=torch.float64), torch.randn(2, 2, 5), r"convert it to float32 by network.float\(\)"),
        (nn.Linear(4, 2), torch.randn(2, 5), "does not take the example input"),
        (nn.Linear(4, 2), torch.zeros(0, 4), "n of at least 1"),
        (nn.Linear(4, 2), [], "n of at least 1"),
    ],
)
def test_what_cannot_be_exported_is_refused_quietly_and_leaves_nothing(network, given, message, tmp_path, capfd):
    with pytest.raises(ValueError, match=message) as refusal:
        export_onnx(network, given, tmp_path / "new" / "network.onnx")
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        export_onnx(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "file" / "network.onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_the_sentence_names_it(missing, tmp_path, monkeypatch):
    def without(name):
        if name == missing:
            raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ValueError, match=rf"package {missing}, .* pip install bayesprune\[export\]"):
        export_onnx(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []
