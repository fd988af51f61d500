from __future__ import annotations

import copy
import json
import re
import runpy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from torch import fx, nn

from bayesprune.models.deployment.export import export_network
from bayesprune.models.networks.lenet import lenet_5, lenet_300_100
from bayesprune.models.units.compact import compact

# ---------------------------------------------------------------------------------------- networks to export


class Residual(nn.Module):
    """Branches, work in place, sizes read early and used late, awkward names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.ModuleDict({"left": nn.Conv2d(4, 4, 3, padding=1), "right": nn.Conv2d(4, 4, 1)})
        self.block_left = nn.BatchNorm2d(4)  # its flat name is that of block.left
        self.load, self.F, self.forward_ = nn.Linear(4, 2), nn.ReLU(inplace=True), nn.Dropout(0.3)
        self.scale = nn.Parameter(torch.randn(4, 1, 1))
        self.register_buffer("shift", torch.randn(4, 1, 1))

    def forward(self, images):
        side = images.shape[-1]
        x = self.F(self.first(images))
        y = self.block["left"](x)
        y += self.block["right"](x)
        y = self.block_left(y)
        z = self.forward_(y) * self.scale + self.shift
        z = torch.cat([z, y - 1, images], dim=1)[:, :4]
        z = F.dropout(F.max_pool2d(z, 3, stride=1, padding=1), 0.4, training=self.training)
        return self.load(z.permute(0, 2, 3, 1).reshape(z.shape[0], -1, 4)).view(-1, side * side, 2)


class Functional(nn.Module):
    """Weights used by functions, constants, operators, several inputs, an argument held at its default."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 4)
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))])
        self.register_buffer("mask", torch.tensor([True, False, True, True]))

    def forward(self, x, other, flag=True, state=None):
        if state is not None or not flag:
            raise AssertionError
        x = F.linear(x, self.fc.weight, self.fc.bias) @ self.weights[0]
        x = torch.where(self.mask, x, -other) ** 2 / (1 + abs(other)) - torch.tensor([1.0, 2.0, 3.0, 4.0])
        x = torch.einsum("bi, bj -> bij", x, torch.tanh(other)).mean((1, 2), keepdim=True)
        return {"a": x, "b": (torch.clamp(x.sum(), min=-3.0), [other.chunk(2, dim=1)[1], x.size(0)])}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True)
        self.gru, self.cell, self.rnn = nn.GRU(4, 5), nn.GRUCell(5, 6), nn.RNN(6, 3, nonlinearity="relu")
        self.lstm_cell = nn.LSTMCell(3, 2)

    def forward(self, x):
        x, (h, _) = self.lstm(x)
        x, last = self.gru(x)
        x = self.cell(x[:, -1], self.cell(x[:, 0]))
        x, _ = self.rnn(x[None])
        h, c = self.lstm_cell(x[0])
        return h, c, last


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = self.norm(x)
        return x + self.attention(y, y, y, need_weights=False)[0]


def shared():
    layer = nn.Linear(4, 4)
    network = nn.Sequential(layer, nn.Tanh(), layer, nn.Sequential(nn.Linear(4, 4), nn.Softmax(dim=1)))
    network[3][0].weight = layer.weight
    return network


def half_of(network):
    """Half the units of the first layers off, so that there is something to compact."""
    with torch.no_grad():
        for layer in (network.conv1, network.conv2, network.fc1):
            layer.weight[::2], layer.bias[::2] = 0.0, 0.0
    return network


class Sized(nn.Module):
    """Sizes written in its forward: its compact network is a graph module."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc1 = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3), nn.Linear(8 * 16, 20)
        self.fc2 = nn.Linear(20, 3)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x)))).view(x.size(0), 8 * 16)
        left, right = F.relu(self.fc1(x)).split(10, dim=1)
        return self.fc2(torch.cat([right, left], 1))


def compacted(network, example):
    return compact(half_of(network.double()), example.double()).network


QUICK = {
    "lenet-300-100": (lenet_300_100, (784,)),
    "lenet-5 compacted": (lambda: compacted(lenet_5(), torch.randn(1, 1, 28, 28)), (1, 28, 28)),
    "sized compacted": (lambda: compacted(Sized(), torch.randn(1, 1, 8, 8)), (1, 8, 8)),
    "graph module": (lambda: fx.symbolic_trace(Residual().eval()), (3, 8, 8)),
    "residual": (Residual, (3, 8, 8)),
    "functional": (Functional, ((5,), (4,))),
    "recurrent": (Recurrent, (6, 3)),
    "attention": (Attention, (5, 8)),
    "shared": (shared, (4,)),
    "squeezenet1_1": (lambda: torchvision.models.squeezenet1_1(num_classes=10), (3, 32, 32)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (3, 32, 32)),
}
SLOW = {
    "vgg16_bn": {},
    "resnet50": {},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
    "densenet121": {},
    "googlenet": {"init_weights": False, "aux_logits": True},
    "efficientnet_b0": {},
    "vit_b_32": {"image_size": 64},
}


def leaves(output):
    return [part for part in torch.utils._pytree.tree_leaves(output) if torch.is_tensor(part)]


def example(shape, batch):
    if isinstance(shape[0], tuple):
        return tuple(example(one, batch) for one in shape)
    return torch.randn(batch, *shape, dtype=torch.float64)


def prepared(build, shape):
    """A network in float64 whose output varies: batch statistics are those of data, last layers are not zero."""
    network = build().double()
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
    if norms:
        with torch.no_grad():
            network.train()(example(shape, 16))
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


ALONE = """
import importlib.util, sys
sys.path.insert(0, {folder!r})
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
for name in {blocked!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(name)
import torch
torch.set_num_threads(1)
for folder, inputs in torch.load({inputs!r}).items():
    spec = importlib.util.spec_from_file_location("network", folder + "/network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.no_grad():
        outputs = module.load()(*inputs)
    torch.save([x for x in torch.utils._pytree.tree_leaves(outputs) if torch.is_tensor(x)], folder + "/outputs.pt")
"""
BLOCKED = ("bayesprune", "pyro", "safetensors", "torchvision", "numpy")


def run_alone(tmp_path, inputs):
    """Runs exports in a fresh Python that has neither bayesprune nor what it depends on, but torch."""
    torch.save({str(folder): given for folder, given in inputs.items()}, tmp_path / "inputs.pt")
    code = ALONE.format(folder=str(tmp_path), blocked=BLOCKED, inputs=str(tmp_path / "inputs.pt"))
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {folder: torch.load(folder / "outputs.pt") for folder in inputs}


def alone_and_here(networks, tmp_path):
    """Exports networks; their outputs on another batch size, in a fresh process and of the networks themselves."""
    inputs, here = {}, {}
    for name, (build, shape) in networks.items():
        network, given = prepared(build, shape), example(shape, 5)
        given = given if isinstance(given, tuple) else (given,)
        folder = export_network(network, example(shape, 2), tmp_path / name)
        inputs[folder] = given
        with torch.no_grad():
            here[name] = leaves(network(*given))
    alone = run_alone(tmp_path, inputs)
    return {name: (alone[tmp_path / name], here[name], tmp_path / name) for name in networks}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    torch.manual_seed(0)
    return alone_and_here(QUICK, tmp_path_factory.mktemp("quick"))


def differences(found, expected):
    assert [one.shape for one in found] == [one.shape for one in expected]
    return [float((a - b).abs().max() / b.std(correction=0)) for a, b in zip(found, expected, strict=True) if b.ndim]


@pytest.mark.parametrize("name", QUICK)
def test_an_export_gives_what_the_network_gives_with_torch_alone(quick, name):
    found, expected, _ = quick[name]
    assert all(one.dtype == torch.float64 for one in found)
    assert max(float(one.std()) for one in expected if one.numel() > 1) > 1e-2
    assert max(differences(found, expected)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_an_export_of_a_torchvision_network_gives_what_it_gives(tmp_path, name):
    def build():
        return getattr(torchvision.models, name)(num_classes=10, **SLOW[name])

    found, expected, folder = alone_and_here({name: (build, (3, 64, 64))}, tmp_path)[name]
    assert float(expected[0].std(dim=0).mean()) > 1e-3
    assert max(differences(found, expected)) < 1e-12
    check_style((folder / "network.py").read_text())


def test_a_weight_changed_by_a_millionth_is_seen(quick, tmp_path):
    _, expected, folder = quick["lenet-300-100"]
    weights = load_file(folder / "compact.safetensors")
    weights["fc1.weight"][0, 0] *= 1 + 1e-6
    (tmp_path / "network.py").write_text((folder / "network.py").read_text())
    save_file(weights, tmp_path / "compact.safetensors")
    inputs = torch.load(folder.parent / "inputs.pt")[str(folder)]
    assert max(differences([load(tmp_path)(*inputs).detach()], expected)) > 1e-12


def load(folder):
    return runpy.run_path(str(folder / "network.py"))["load"]()


# ---------------------------------------------------------------------------------------------- what is written


def check_style(text):
    compile(text, "network.py", "exec")
    assert max(map(len, text.splitlines())) <= 120
    code = text.split("class Network")[1].split("def load")[0]
    assert not re.search(
        r";|Proxy|\) ->|= None|getattr\(", re.sub(r"torch._assert\(.*?\"\s*\)", "", code, flags=re.DOTALL)
    )
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,I,W,UP,B"]
    done = subprocess.run([*command, "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", QUICK)
def test_what_is_written_is_in_good_style_and_imports_torch_only(quick, name):
    text = (quick[name][2] / "network.py").read_text()
    check_style(text)
    imported = re.findall(r"^(?:import|from) (\w+)", text, flags=re.MULTILINE)
    assert set(imported) <= {"torch", "json", "pathlib", "math", "operator"}


LENET = """\
        self.conv1 = nn.Conv2d(1, 10, kernel_size=(5, 5))
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(kernel_size=2)
        self.conv2 = nn.Conv2d(10, 25, kernel_size=(5, 5))
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(kernel_size=2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(400, 250)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(250, 10)

    def forward(self, x):
        x = self.conv1(x)
        x = self.relu1(x)
        x = self.pool1(x)
        x = self.conv2(x)
        x = self.relu2(x)
        x = self.pool2(x)
        x = self.flatten(x)
        x = self.fc1(x)
        x = self.relu3(x)
        return self.fc2(x)
"""
BLOCK = """\
        layer2_0 = self.layer2_0_conv1(layer1_1)
        layer2_0 = self.layer2_0_bn1(layer2_0)
        layer2_0 = self.layer2_0_relu(layer2_0)
        layer2_0 = self.layer2_0_conv2(layer2_0)
        layer2_0 = self.layer2_0_bn2(layer2_0)
        x = self.layer2_0_downsample_0(layer1_1)
        x = self.layer2_0_downsample_1(x)
        layer2_0 += x
        layer2_0 = self.layer2_0_relu(layer2_0)
"""


def test_a_network_reads_as_one_would_write_it(quick):
    assert LENET in (quick["lenet-5 compacted"][2] / "network.py").read_text()
    assert BLOCK in (quick["resnet18"][2] / "network.py").read_text()


def test_the_same_network_is_written_the_same(tmp_path):
    network = Residual()
    for name in ("a", "b"):
        export_network(network, torch.randn(2, 3, 8, 8), tmp_path / name)
    for file in ("network.py", "compact.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_float32_stays_float32(tmp_path):
    network, x = Residual().eval(), torch.randn(3, 3, 8, 8)
    found = load(export_network(network, x, tmp_path))(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, network(x), rtol=0, atol=1e-6)


def test_an_exported_file_run_by_itself_prints_layers_and_parameters(tmp_path, capsys):
    export_network(lenet_300_100(), torch.randn(1, 784), tmp_path)
    runpy.run_path(str(tmp_path / "network.py"), run_name="__main__")
    written = capsys.readouterr().out
    assert "(fc2): Linear(in_features=300, out_features=100, bias=True)" in written
    assert written.endswith("266,610 parameters\n")
    assert "Network: a network of 266,610 parameters" in (tmp_path / "network.py").read_text()


def test_an_exported_network_can_be_trained_on(tmp_path):
    network = load(export_network(lenet_300_100(), torch.randn(1, 784), tmp_path))
    assert not network.training and all(parameter.requires_grad for parameter in network.parameters())
    network(torch.randn(3, 784)).sum().backward()
    assert network.fc1.weight.grad is not None


def test_the_plan_is_written_and_that_of_an_earlier_export_goes(tmp_path):
    plan = {"tensors": {"fc1.weight": {"shape": [300, 784], "kept": {"0": [0, 3]}}}}
    (tmp_path / "notes.txt").write_text("mine")
    export_network(lenet_300_100(), torch.randn(1, 784), tmp_path, plan)
    assert json.loads((tmp_path / "plan.json").read_text()) == plan
    assert "plan.json" in (tmp_path / "network.py").read_text()
    export_network(lenet_300_100(), torch.randn(1, 784), tmp_path, weights_name="w.safetensors")
    assert "plan.json" not in (tmp_path / "network.py").read_text() and not (tmp_path / "plan.json").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert load(tmp_path).fc1.weight.shape == (300, 784)


EARLIER = '''"""Net: a network of 1,234 parameters, generated by bayesprune; it needs PyTorch and nothing else.

    from network import load

    network = load()  # with the weights of compact.safetensors, in evaluation mode
    outputs = network(x)  # x: torch.float32, (n, 784)

`python network.py` prints the layers. plan.json says which original indices were kept.
"""

WEIGHTS = "compact.safetensors"
'''


def test_an_export_of_an_earlier_version_is_replaced(tmp_path):
    (tmp_path / "network.py").write_text(EARLIER)
    (tmp_path / "compact.safetensors").write_bytes(b"earlier")
    (tmp_path / "plan.json").write_text("{}")
    export_network(lenet_300_100(), torch.randn(1, 784), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"network.py", "compact.safetensors"}
    assert load(tmp_path).fc1.weight.shape == (300, 784)


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ({"network.py": "class Network: ..."}, "network.py"),
        ({"network.py": ""}, "network.py"),
        ({"network.py": "# not generated by bayesprune"}, "network.py"),
        ({"compact.safetensors": "mine"}, "compact.safetensors"),
        ({"plan.json": "mine"}, "plan.json"),
        ({"network.py": EARLIER.replace("compact.saf", "other.saf"), "compact.safetensors": "mine"}, "compact.saf"),
        ({"network.py": EARLIER.replace(" plan.json says", ""), "plan.json": "mine"}, "plan.json"),
    ],
)
def test_files_of_ones_own_are_not_replaced(tmp_path, there, told):
    for name, content in there.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{told}.* is of no earlier export, so it is not replaced"):
        export_network(lenet_300_100(), torch.randn(1, 784), tmp_path, plan={})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == there


def test_a_plan_of_ones_own_stays_where_none_is_written(tmp_path):
    (tmp_path / "plan.json").write_text("mine")
    export_network(lenet_300_100(), torch.randn(1, 784), tmp_path)
    assert (tmp_path / "plan.json").read_text() == "mine"


def test_links_in_place_of_an_export_are_refused(tmp_path):
    folder, other = tmp_path / "a", tmp_path / "b"
    export_network(lenet_300_100(), torch.randn(1, 784), other)
    folder.mkdir()
    for name in ("network.py", "compact.safetensors"):
        (folder / name).symlink_to(other / name)
    before = (other / "network.py").read_bytes()
    with pytest.raises(ValueError, match="network.py exists already and is of no earlier export"):
        export_network(nn.Linear(4, 2), torch.randn(1, 4), folder)
    assert (other / "network.py").read_bytes() == before
    (tmp_path / "whole").symlink_to(other)  # a link to the folder itself leads there
    export_network(nn.Linear(4, 2), torch.randn(1, 4), tmp_path / "whole")
    assert (other / "network.py").read_bytes() != before
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    with pytest.raises(ValueError, match="network.py cannot be written"):
        export_network(nn.Linear(4, 2), torch.randn(1, 4), tmp_path / "dangling")


def test_the_network_is_left_as_it_was(tmp_path):
    network = Functional().train()
    x = (torch.randn(2, 5), torch.randn(2, 4))
    before, given, attributes = copy.deepcopy(network.state_dict()), copy.deepcopy(x), set(vars(network))
    export_network(network, x, tmp_path)
    assert network.training and set(vars(network)) == attributes
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(x, given, rtol=0, atol=0)


def test_the_generated_reader_reads_what_safetensors_writes(tmp_path):
    read = runpy.run_path(str(export_network(nn.Linear(2, 2), torch.randn(1, 2), tmp_path) / "network.py"))
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    tensors = {str(dtype): (3 * torch.randn(3, 2)).to(dtype) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 3)}
    save_file(tensors, tmp_path / "all.safetensors", metadata={"format": "pt"})
    found = read["read_safetensors"](tmp_path / "all.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    (tmp_path / "short.safetensors").write_bytes((tmp_path / "all.safetensors").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"short.safetensors is damaged"):
        read["read_safetensors"](tmp_path / "short.safetensors")
