"""`--weights FILE`: what of a trained network's file fits a network, and what is said where it does not."""

from __future__ import annotations

import json
import re
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from bayesprune.models.files.torch_file import read_torch_tensors
from bayesprune.runs.run_folder import SUMMARY_FILE, load_run
from bayesprune.runs.starting_weights import StartingWeights


def network(outputs=3, channels=1, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, 4, 3, padding=1), norm=nn.BatchNorm2d(4), relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(4, outputs),
        )
    )  # fmt: skip


@pytest.fixture
def trained():
    return network(seed=7).eval()


def loaded(file, into=None, **how):
    found = network() if into is None else into
    weights = StartingWeights(file, **how)
    weights.load_into(found)
    return found.eval(), weights.notes


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


WRITTEN = {
    "by itself": lambda net: net.state_dict(),
    "under state_dict": lambda net: {"epoch": 3, "state_dict": net.state_dict(), "best": 0.5},
    "under model": lambda net: {"model": net.state_dict(), "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "under model_state_dict": lambda net: {"model_state_dict": net.state_dict()},
    "with parameters": lambda net: OrderedDict(
        {**net.state_dict(), **{name: value for name, value in net.named_parameters()}}
    ),
    "of DataParallel": lambda net: nn.DataParallel(net).state_dict(),
    "compiled and parallel": lambda net: {f"module._orig_mod.{name}": v for name, v in net.state_dict().items()},
    "without counters": lambda net: {n: v for n, v in net.state_dict().items() if "num_batches" not in n},
}


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_file_of_torch_save_is_where_a_network_starts(trained, tmp_path, how, suffix):
    file = tmp_path / f"trained{suffix}"
    torch.save(WRITTEN[how](trained), file)
    assert not same(network(), trained)
    assert same(loaded(file)[0], trained)


def test_the_form_of_old_files_is_read(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(loaded(tmp_path / "old.pth")[0], trained)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", ["best.pth.tar", "last.ckpt", "weights.bin", "weights", "weights.safetensors"])
def test_a_file_of_torch_save_is_known_by_its_first_bytes(trained, tmp_path, name, old):
    torch.save(trained.state_dict(), tmp_path / name, _use_new_zipfile_serialization=not old)
    assert same(loaded(tmp_path / name)[0], trained)


def test_so_is_a_safetensors_file_whatever_the_length_of_its_header(trained, tmp_path):
    starts = set()
    for length in range(0, 256, 8):
        stored = save(trained.state_dict(), metadata={"x": "." * length})
        (tmp_path / f"{length}.pth").write_bytes(stored)
        assert same(loaded(tmp_path / f"{length}.pth")[0], trained)
        starts.add(stored[:1])
    assert b"\x80" in starts  # one of them begins as a pickle does


def test_what_is_neither_is_told_by_its_name(tmp_path):
    for name, part in (("w.pth", "no file of torch.save"), ("w.bin", "is damaged")):
        (tmp_path / name).write_bytes(b"neither")
        with pytest.raises(ValueError, match=part):
            loaded(tmp_path / name)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_numbers_beyond_the_range_of_the_network_are_refused(trained, tmp_path, suffix):
    state = {name: v.double() if v.is_floating_point() else v for name, v in trained.state_dict().items()}
    write = torch.save if suffix == ".pth" else save_file
    write(state, tmp_path / f"fine{suffix}")
    assert same(loaded(tmp_path / f"fine{suffix}")[0], trained)  # control
    state["head.bias"][1] = 1e300
    write(state, tmp_path / f"large{suffix}")
    with pytest.raises(ValueError, match="numbers in head.bias beyond 3.4e\\+38, the range of the network's float32"):
        loaded(tmp_path / f"large{suffix}")


def test_names_of_old_files_of_densenet_are_joined(tmp_path):
    from torchvision.models import DenseNet

    made = [DenseNet(4, (2, 1), 4, num_classes=3) for _ in range(2)]
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", n): v for n, v in made[0].state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    assert not same(made[1], made[0]) and same(loaded(tmp_path / "old.pth", made[1])[0], made[0])


def test_wrapped_names_are_taken_off_only_where_all_have_them(trained, tmp_path):
    state = trained.state_dict()
    torch.save({f"module.{name}": value for name, value in state.items()} | {"x": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="none of its names is the network's"):
        loaded(tmp_path / "w.pth")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "w.pth")
    within = nn.Sequential(OrderedDict(module=network()))  # a network that has such names by itself
    assert same(loaded(tmp_path / "w.pth", within)[0].module, trained)


class Armed:
    """Leaves a file when it is unpickled."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


def no_states(trained, sentinel):
    return {
        "a whole network": trained,
        "an object": Armed(sentinel),
        "an object beside a state dict": {"state_dict": trained.state_dict(), "more": Armed(sentinel)},
        "a tensor": torch.ones(3),
        "a list": [trained.state_dict()],
        "nothing": {},
        "numbers": {"conv.weight": 3.0},
        "a text in place of a state dict": {"state_dict": "conv.weight"},
        "a sparse tensor": {"conv.weight": torch.eye(3).to_sparse()},
        "names that are numbers": {0: torch.ones(3)},
    }


@pytest.mark.parametrize("what", list(no_states(None or network(), "x")))
def test_what_is_no_state_dict_is_refused_and_never_run(trained, tmp_path, what):
    file = tmp_path / "file.pt"
    torch.save(no_states(trained, tmp_path / "sentinel")[what], file)
    with pytest.raises(ValueError, match=r"torch.save\(network.state_dict\(\), FILE\)") as problem:
        loaded(file)
    assert "\n" not in str(problem.value) and not (tmp_path / "sentinel").exists()


def test_the_armed_file_is_armed(tmp_path):
    torch.save(Armed(tmp_path / "sentinel"), tmp_path / "file.pt")
    torch.load(tmp_path / "file.pt", weights_only=False).close()
    assert (tmp_path / "sentinel").exists()


def test_not_even_the_environment_lets_code_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(Armed(tmp_path / "sentinel"), tmp_path / "file.pt")
    with pytest.raises(ValueError, match="could run code"):
        loaded(tmp_path / "file.pt")
    assert not (tmp_path / "sentinel").exists()


def test_an_archive_that_grows_is_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(1000, 1000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(
        tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED
    ) as packed:  # fmt: skip
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert read_torch_tensors(tmp_path / "plain.pt", "x")["conv.weight"].shape == (1000, 1000)
    with pytest.raises(ValueError, match="compressed"):
        read_torch_tensors(tmp_path / "packed.pt", "x")


def test_a_tensor_of_few_numbers_and_a_vast_shape_takes_no_memory(trained, tmp_path):
    state = trained.state_dict() | {"conv.weight": torch.ones(1).expand(2**40)}
    torch.save(state, tmp_path / "vast.pt")
    with pytest.raises(ValueError, match=r"conv.weight has shape \(1099511627776,\) in the file"):
        loaded(tmp_path / "vast.pt")


def test_weights_that_are_not_finite_are_refused(trained, tmp_path):
    with torch.no_grad():
        trained.head.bias[1] = float("nan")
    torch.save(trained.state_dict(), tmp_path / "nan.pt")
    with pytest.raises(ValueError, match="NaN or infinity in head.bias"):
        loaded(tmp_path / "nan.pt")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_new_head_leaves_all_else_as_trained(tmp_path, suffix):
    of_many = network(outputs=50, seed=7)
    file = tmp_path / f"many{suffix}"
    (torch.save if suffix == ".pth" else save_file)(of_many.state_dict(), file)
    with pytest.raises(ValueError, match="only the last layer, head, differs, so give --new-head"):
        loaded(file)
    begun = network(seed=3)
    found, notes = loaded(file, network(seed=3), new_head=True)
    assert torch.equal(found.conv.weight, of_many.conv.weight) and torch.equal(found.head.weight, begun.head.weight)
    assert any("head began anew" in note for note in notes)


def test_a_new_head_lets_no_other_layer_differ(tmp_path):
    state = network(outputs=50).state_dict() | {"conv.weight": torch.ones(4, 1, 5, 5)}
    torch.save(state, tmp_path / "w.pth")
    for new_head in (False, True):
        with pytest.raises(ValueError, match="conv.weight has shape") as problem:
            loaded(tmp_path / "w.pth", new_head=new_head)
        assert "--new-head" not in str(problem.value)


def test_a_network_for_colours_does_to_grey_images_what_it_did_to_them_in_all_colours(tmp_path):
    colours = network(channels=3, seed=7).eval()
    torch.save(colours.state_dict(), tmp_path / "colours.pth")
    found, notes = loaded(tmp_path / "colours.pth")
    x = torch.randn(5, 1, 6, 6)
    torch.testing.assert_close(found(x), colours(x.repeat(1, 3, 1, 1)))
    with torch.no_grad():
        assert not torch.allclose(found(x), colours(x * torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1)))
    assert any("summed over its three colours" in note for note in notes)


# ------------------------------------------------------------------------------------- the command line, torchvision


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Forty pictures of 32 x 32 in two classes, bytes, grey and in colour."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = generator.integers(0, 200, (40, 32, 32), dtype=np.uint8)
    x[y == 1, :16] += 55
    np.savez(folder / "grey.npz", x=x, y=y)
    np.savez(folder / "colours.npz", x=np.repeat(x[:, None], 3, axis=1), y=y)
    np.savez(folder / "four.npz", x=np.repeat(x[:, None], 4, axis=1), y=y)
    np.savez(folder / "flat.npz", x=x.reshape(40, -1).astype(np.float64), y=y)
    return folder


SHUFFLENET = "torchvision.models:shufflenet_v2_x0_5"  # the smallest of them


def arguments(pictures, out, *more, data="grey", net=SHUFFLENET):
    return (
        "fit", "--data", pictures / f"{data}.npz", "--network", net, "--prior", "gaussian", "--steps", 1,
        "--batch-size", 16, "--learning-rate", 1e-12, "--guide", "map", "--quiet", "--out", out, *more,
    )  # fmt: skip


@pytest.mark.parametrize("data", ["grey", "colours"])
def test_a_network_of_torchvision_gets_the_classes_and_channels_of_the_data(command, pictures, tmp_path, data):
    import torchvision

    assert command(*arguments(pictures, tmp_path / "run", data=data))[0] == 0
    summary = json.loads((tmp_path / "run" / SUMMARY_FILE).read_text())
    assert summary["network_settings"] == {"num_classes": 2}
    fit = load_run(tmp_path / "run", network=SHUFFLENET)
    channels = 1 if data == "grey" else 3
    assert fit.model.network.conv1[0].weight.shape == (24, channels, 3, 3)
    assert fit.model.network.fc.out_features == 2
    assert torchvision.models.shufflenet_v2_x0_5().fc.out_features == 1000  # control


def test_trained_weights_of_torchvision_start_a_fit_on_grey_images(command, pictures, tmp_path):
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(5)
    trained = shufflenet_v2_x0_5()  # a thousand classes
    torch.save(trained.state_dict(), tmp_path / "shufflenet.pth")
    weights = ("--weights", tmp_path / "shufflenet.pth")
    code, _, error = command(*arguments(pictures, tmp_path / "run", *weights))
    assert code == 2 and "only the last layer, fc, differs, so give --new-head" in error
    assert command(*arguments(pictures, tmp_path / "run", *weights, "--new-head"))[0] == 0
    kept = load_run(tmp_path / "run", network=SHUFFLENET).included_weights()
    assert torch.allclose(kept["conv5.0.weight"], trained.conv5[0].weight, atol=1e-5)
    summed = trained.conv1[0].weight.sum(dim=1, keepdim=True)
    assert torch.allclose(kept["conv1.0.weight"], summed, atol=1e-5)
    notes = json.loads((tmp_path / "run" / SUMMARY_FILE).read_text())["notes"]
    assert any("summed over" in note for note in notes) and any("--new-head" in note for note in notes)


OWN = """
from torch import nn

def with_hidden(input_shape, outputs, hidden=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

ready = nn.Sequential(nn.Flatten(), nn.Linear(1024, 2))
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def test_arguments_of_a_network_of_one_s_own_are_kept_from_fit_to_predict(command, pictures, tmp_path, own):
    net = f"{own}:with_hidden"
    given = arguments(pictures, tmp_path / "run", "--network-set", "hidden=9", net=net)
    assert command(*given)[0] == 0
    assert load_run(tmp_path / "run", network=net).model.network[1].out_features == 9
    assert command("prune", tmp_path / "run", "--sparsity", 0.5, "--out", tmp_path / "pruned")[0] == 0
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 32, 32)))
    assert command("predict", tmp_path / "pruned", "--input", tmp_path / "x.npy", "--out", tmp_path / "p.npz")[0] == 0
    summary = json.loads((tmp_path / "pruned" / SUMMARY_FILE).read_text())
    summary["network_settings"] = {}  # control: without them it is another network
    (tmp_path / "pruned" / SUMMARY_FILE).write_text(json.dumps(summary))
    code, _, error = command("predict", tmp_path / "pruned", "--input", tmp_path / "x.npy", "--out", tmp_path / "q.npz")
    assert code == 2 and "do not fit each other" in error


@pytest.mark.parametrize(
    ("data", "net", "more", "parts"),
    [
        ("four", SHUFFLENET, (), ("takes 3 channels, but the images have 4", "FILE.py:NAME")),
        ("flat", SHUFFLENET, (), ("takes images (channels, height, width)", "(1024,)")),
        ("grey", SHUFFLENET, ("--network-set", "weights=DEFAULT"), ("to download weights", "--weights FILE")),
        ("grey", SHUFFLENET, ("--network-set", "nothing=1"), ("cannot be made", "nothing")),
        ("grey", SHUFFLENET, ("--network-set", "num_classes"), ("--network-set takes KEY=VALUE",)),
        ("grey", "lenet-300-100", ("--network-set", "hidden=3"), ("leave it out",)),
        ("grey", "OWN:with_hidden", ("--network-set", "hiden=3"), ("cannot be called", "input_shape, outputs, hidden")),
        ("grey", "OWN:ready", ("--network-set", "hidden=3"), ("is a network already",)),
        ("grey", SHUFFLENET, ("--new-head",), ("--new-head", "leave it out")),
        ("grey", SHUFFLENET, ("--weights", "nowhere.pth"), ("there is no file nowhere.pth",)),
        ("grey", SHUFFLENET, ("--weights", "DATA"), ("grey.pth", "torch.save(network.state_dict(), FILE)")),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(command, pictures, tmp_path, own, data, net, more, parts):
    (tmp_path / "grey.pth").write_bytes((pictures / "grey.npz").read_bytes())
    more = tuple(str(tmp_path / "grey.pth") if part == "DATA" else part for part in more)
    code, _, error = command(*arguments(pictures, tmp_path / "run", *more, data=data, net=net.replace("OWN", str(own))))
    assert code == 2 and error.count("\n") == 1
    assert all(part in error for part in parts), error
    assert not (tmp_path / "run").exists() and not (tmp_path / "run.part").exists()
