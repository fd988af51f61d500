from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision import datasets as torchvision_datasets

from bayesprune.data import named_sets, sets
from bayesprune.data.named_sets import DATASETS
from bayesprune.data.sets import available, load_data

DEBIAN_FASHION_MNIST = named_sets._DEBIAN_FASHION_MNIST


@pytest.fixture(autouse=True)
def machine_without_data(monkeypatch, tmp_path):
    """Nothing that stands on this machine, and no network, decides these tests."""
    monkeypatch.delenv("BAYESPRUNE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(named_sets, "_DEBIAN_FASHION_MNIST", tmp_path / "debian")

    def no_network(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", no_network)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)


def rows(*parts):
    """Every example of the parts as bytes, so that examples can be compared as sets."""
    return [row.numpy().tobytes() for x, _ in parts for row in x]


def refuses(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Splits and standardising, on digits for real


def test_digits_have_the_promised_form():
    splits = load_data("digits")
    assert (splits.name, splits.classes, splits.input_shape) == ("digits", 10, (1, 8, 8))
    assert [len(y) for _, y in (splits.train, splits.validation, splits.test)] == [1294, 144, 359]
    for x, y in (splits.train, splits.validation, splits.test):
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert x.shape == (len(y), 1, 8, 8)
        assert x.is_contiguous()
    assert splits.class_names == tuple("0123456789")


def test_images_are_scaled_to_one_and_standardised_by_the_training_part():
    splits = load_data("digits")
    x = splits.train[0].double()
    assert abs(x.mean().item()) < 1e-6
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert abs(splits.test[0].mean().item()) > 1e-4  # the test part is not standardised by itself
    parts = (splits.train, splits.validation, splits.test)
    pixels = torch.cat([x for x, _ in parts]) * splits.sd[:, None, None] + splits.mean[:, None, None]
    original = torch.tensor(load_digits().images / 16)
    torch.testing.assert_close(pixels.double().sort(0)[0][:, 0], original.sort(0)[0], atol=1e-6, rtol=0)


def test_labels_stay_with_their_images():
    splits = load_data("digits")
    bunch = load_digits()
    label = {(image / 16).round(decimals=4).tobytes(): y for image, y in zip(bunch.images, bunch.target, strict=True)}
    for x, y in (splits.train, splits.validation, splits.test):
        pixels = (x * splits.sd[0] + splits.mean[0]).double()[:, 0]
        for image, target in zip(pixels, y.tolist(), strict=True):
            exact = ((image * 16).round() / 16).numpy().round(decimals=4)
            assert label[exact.tobytes()] == target


def test_splits_are_disjoint_and_lose_nothing(tmp_path):
    x = np.arange(1000.0)[:, None]
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(1000) % 7)
    splits = load_data(tmp_path / "d.npz", seed=5)
    parts = [set(rows(part)) for part in (splits.train, splits.validation, splits.test)]
    assert [len(part) for part in parts] == [720, 80, 200]
    assert len(set.union(*parts)) == 1000


def test_splits_are_stratified():
    splits = load_data("digits", validation_fraction=0.25)
    total = np.bincount(load_digits().target)
    rest = np.bincount(torch.cat([splits.train[1], splits.validation[1]]))
    assert (np.abs(np.bincount(splits.test[1]) - 0.2 * total) < 1).all()
    assert (np.abs(np.bincount(splits.validation[1]) - 0.25 * rest) < 1).all()


def test_the_seed_moves_the_validation_part_and_not_the_test_part():
    first, again, other = (load_data("digits", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.train[0], again.train[0])
    assert torch.equal(first.validation[1], again.validation[1])
    assert first.sd.item() != other.sd.item()  # another training part
    assert torch.equal(first.test[1], other.test[1])

    def pixels(s):
        return (s.test[0] * s.sd[0] + s.mean[0]) * 16

    torch.testing.assert_close(pixels(first), pixels(other), atol=1e-4, rtol=0)
    held = [(s.validation[0] * s.sd[0] + s.mean[0]).sum().item() for s in (first, other)]
    assert held[0] != pytest.approx(held[1], abs=1e-3)


def test_no_validation_part_if_none_is_asked_for():
    splits = load_data("digits", validation_fraction=0)
    assert splits.validation[0].shape == (0, 1, 8, 8)
    assert len(splits.train[1]) == 1438


def test_every_class_keeps_a_training_example(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(23, 2)), y=np.array([0] * 20 + [1, 2, 2]))
    splits = load_data(tmp_path / "d.npz", validation_fraction=0.5)
    assert set(splits.train[1].tolist()) == {0, 1, 2}


def test_impossible_arguments_are_refused():
    refuses(lambda: load_data("digits", validation_fraction=1.0), r"validation_fraction is 1.0.*\[0, 1\)")
    refuses(lambda: load_data("digits", validation_fraction=-0.1), "validation_fraction is -0.1")
    refuses(lambda: load_data("digits", seed=-1), "seed is -1")
    message = refuses(lambda: load_data("fashion-minst"), "unknown data 'fashion-minst'")
    assert all(name in message for name in DATASETS)
    refuses(lambda: load_data(Path("digits")), "unknown data 'digits'")  # a Path is never a name


# IDX files


def write_idx(path, array, magic=None):
    header = bytes([0, 0, 8, array.ndim]) if magic is None else magic
    raw = header + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(raw))
    else:
        path.write_bytes(raw)


def idx_set(folder, seed=0, ending=".gz", n=60, test_labels=None):
    generator = np.random.default_rng(seed)
    arrays = {}
    for part, size in (("train", n), ("t10k", 20)):
        x = generator.integers(0, 256, (size, 6, 5))
        y = np.arange(size) % 10
        if part == "t10k" and test_labels is not None:
            y[:10] = test_labels
        write_idx(folder / f"{part}-images-idx3-ubyte{ending}", x)
        write_idx(folder / f"{part}-labels-idx1-ubyte{ending}", y)
        arrays[part] = x, y
    return arrays


@pytest.mark.parametrize("ending", [".gz", ""])
def test_idx_files_are_read_as_written(tmp_path, ending):
    arrays = idx_set(tmp_path, ending=ending)
    splits = load_data("fashion-mnist", root=tmp_path, validation_fraction=0)
    x, y = arrays["train"]
    assert splits.input_shape == (1, 6, 5)
    assert splits.classes == 10
    assert splits.mean.item() == pytest.approx((x / 255).mean(), abs=1e-6)
    assert splits.sd.item() == pytest.approx((x / 255).std(), abs=1e-6)
    expected = (x / 255 - (x / 255).mean()) / (x / 255).std()
    np.testing.assert_allclose(splits.train[0][:, 0].numpy(), expected, atol=1e-5)
    assert splits.train[1].tolist() == y.tolist()
    assert splits.test[1].tolist() == arrays["t10k"][1].tolist()
    assert splits.class_names[9] == "Ankle boot"


@pytest.mark.parametrize("place", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_is_found_in_root_and_its_usual_folders(tmp_path, place):
    assert not available("fashion-mnist", root=tmp_path / "root")
    idx_set(tmp_path / "root" / place)
    assert available("fashion-mnist", root=tmp_path / "root")
    assert load_data("fashion-mnist", root=str(tmp_path / "root")).input_shape == (1, 6, 5)


def test_fashion_mnist_is_looked_for_in_root_then_the_variable_then_debian_then_the_cache(tmp_path, monkeypatch):
    places = [tmp_path / "root", tmp_path / "variable", tmp_path / "debian", tmp_path / "cache/bayesprune"]
    monkeypatch.setenv("BAYESPRUNE_DATA", str(places[1]))
    for seed, place in reversed(list(enumerate(places))):
        arrays = idx_set(place, seed=seed)
        splits = load_data("fashion-mnist", root=places[0], validation_fraction=0)
        assert splits.mean.item() == pytest.approx((arrays["train"][0] / 255).mean(), abs=1e-6), place


def test_files_of_mnist_are_not_taken_for_fashion_mnist(tmp_path):
    idx_set(tmp_path, test_labels=[7, 2, 1, 0, 4, 1, 4, 9, 5, 9])
    assert available("mnist", root=tmp_path)
    assert not available("fashion-mnist", root=tmp_path)
    idx_set(tmp_path, test_labels=[9, 2, 1, 1, 6, 1, 4, 6, 5, 7])
    assert not available("mnist", root=tmp_path)
    assert available("fashion-mnist", root=tmp_path)


def test_missing_fashion_mnist_names_the_debian_package_and_the_root(tmp_path):
    message = refuses(lambda: load_data("fashion-mnist", root=tmp_path / "none"), "could not be downloaded")
    assert "dataset-fashion-mnist" in message
    assert "root" in message
    assert "BAYESPRUNE_DATA" in message


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_other_missing_sets_are_refused_without_debians_package(name):
    assert "Debian" not in refuses(lambda: load_data(name), f"{name} is not on this machine")
    assert not available(name)


@pytest.mark.parametrize("error", [URLError("down"), TimeoutError("slow"), RuntimeError("bad sum"), OSError("full")])
def test_whatever_goes_wrong_in_a_download_is_one_sentence(monkeypatch, tmp_path, error):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fails)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fails)
    reason = str(error).strip("<>")
    for name in ("mnist", "cifar10"):
        message = refuses(
            lambda name=name: load_data(name, root=tmp_path / "new"), f"could not be downloaded.*{reason}"
        )
        assert type(error).__name__ not in message  # the reason, not the name of its class
    assert not (tmp_path / "new").exists()  # no empty folders are left


def test_a_download_goes_to_the_first_folder_given_and_is_found_again(monkeypatch, tmp_path, capsys):
    def download(url, download_root, filename, md5):
        print("Downloading")
        whole = tmp_path / "mirror" / filename
        (Path(download_root) / filename).write_bytes(whole.read_bytes())
        (Path(download_root) / whole.stem).write_bytes(gzip.decompress(whole.read_bytes()))

    idx_set(tmp_path / "mirror")
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", download)
    splits = load_data("fashion-mnist")
    assert splits.input_shape == (1, 6, 5)
    assert (tmp_path / "cache/bayesprune/FashionMNIST/raw/train-labels-idx1-ubyte.gz").is_file()
    assert available("fashion-mnist")
    load_data("mnist", root=tmp_path / "root")
    assert (tmp_path / "root/MNIST/raw/train-labels-idx1-ubyte.gz").is_file()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("stem", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_truncated_gzip_is_named(tmp_path, stem):
    idx_set(tmp_path)
    raw = (tmp_path / stem).read_bytes()
    for damaged in (raw[: len(raw) // 2], b"", b"not gzip at all"):
        (tmp_path / stem).write_bytes(damaged)
        refuses(lambda: load_data("fashion-mnist", root=tmp_path), stem)


def test_idx_files_of_another_form_are_named(tmp_path):
    idx_set(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-7]))
    refuses(lambda: load_data("fashion-mnist", root=tmp_path), "train-images-idx3-ubyte.gz is no IDX file")
    write_idx(file, np.zeros((60, 6, 5)), magic=bytes([0, 0, 13, 3]))
    refuses(lambda: load_data("fashion-mnist", root=tmp_path), "train-images-idx3-ubyte.gz is no IDX file")
    write_idx(file, np.zeros((59, 6, 5)))
    refuses(lambda: load_data("fashion-mnist", root=tmp_path), "x has 59 examples and y has 60")
    idx_set(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(60))
    refuses(lambda: load_data("fashion-mnist", root=tmp_path), r"50 labels.*first \(10\) at index 10.*0\.\.9")


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_real_fashion_mnist(monkeypatch):
    monkeypatch.setattr(named_sets, "_DEBIAN_FASHION_MNIST", DEBIAN_FASHION_MNIST)
    assert available("fashion-mnist")
    splits = load_data("fashion-mnist", validation_fraction=0)
    assert splits.input_shape == (1, 28, 28)
    assert (len(splits.train[1]), len(splits.test[1])) == (60_000, 10_000)
    assert splits.mean.item() == pytest.approx(0.2860, abs=5e-5)  # the values that are published everywhere
    assert splits.sd.item() == pytest.approx(0.3530, abs=5e-5)
    assert torch.bincount(splits.test[1]).tolist() == [1000] * 10


# CIFAR


def cifar_set(root, kind, monkeypatch):
    """Pickles in the layout of the published archives; torchvision is told their sums, and checks them."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    key = "labels" if kind.base_folder == "cifar-10-batches-py" else "fine_labels"
    classes = 10 if key == "labels" else 100
    generator = np.random.default_rng(1)
    expected = {}

    def write(name, content):
        raw = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    for attribute in ("train_list", "test_list"):
        sums, pixels, labels = [], [], []
        for name, _ in getattr(kind, attribute):
            x = generator.integers(0, 256, (2 * classes, 3072), dtype=np.uint8)
            y = generator.permutation(2 * classes) % classes
            sums.append([name, write(name, {"data": x, key: y.tolist()})])
            pixels.append(x.reshape(-1, 3, 32, 32))
            labels += y.tolist()
        monkeypatch.setattr(kind, attribute, sums)
        expected[attribute] = np.concatenate(pixels), labels
    names = [f"class {i}" for i in range(classes)]
    meta = {**kind.meta, "md5": write(kind.meta["filename"], {kind.meta["key"]: names})}
    monkeypatch.setattr(kind, "meta", meta)
    return expected


@pytest.mark.parametrize(
    ("name", "kind", "classes"),
    [("cifar10", torchvision_datasets.CIFAR10, 10), ("cifar100", torchvision_datasets.CIFAR100, 100)],
)
def test_cifar_is_read_as_written_and_standardised_per_channel(tmp_path, monkeypatch, name, kind, classes):
    expected = cifar_set(tmp_path, kind, monkeypatch)
    assert available(name, root=tmp_path)
    splits = load_data(name, root=tmp_path, validation_fraction=0)
    assert (splits.classes, splits.input_shape) == (classes, (3, 32, 32))
    assert splits.class_names[1] == "class 1"
    x, y = expected["train_list"]
    mean, sd = (x / 255).mean((0, 2, 3)), (x / 255).std((0, 2, 3))
    np.testing.assert_allclose(splits.mean, mean, atol=1e-6)
    np.testing.assert_allclose(splits.sd, sd, atol=1e-6)
    scaled = (x / 255 - mean[:, None, None]) / sd[:, None, None]
    np.testing.assert_allclose(splits.train[0], scaled, atol=1e-5)
    assert splits.train[1].tolist() == y
    assert splits.test[1].tolist() == expected["test_list"][1]


def test_damaged_cifar_is_refused_before_it_is_unpickled(tmp_path, monkeypatch):
    cifar_set(tmp_path, torchvision_datasets.CIFAR10, monkeypatch)
    victim = tmp_path / "cifar-10-batches-py" / "data_batch_3"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    victim.write_bytes(pickle.dumps(Trap()))
    refuses(lambda: load_data("cifar10", root=tmp_path), "cifar-10-batches-py are incomplete or damaged")
    victim.unlink()
    refuses(lambda: load_data("cifar10", root=tmp_path), "cifar-10-batches-py are incomplete or damaged")
    assert not (tmp_path / "trapped").exists()


def test_every_name_has_a_line_and_paths_are_available_if_they_exist(tmp_path):
    assert list(DATASETS) == [
        "digits", "fashion-mnist", "mnist", "cifar10", "cifar100", "reber", "embedded-reber",
    ]  # fmt: skip
    assert all(line and "\n" not in line for line in DATASETS.values())
    assert available("digits")
    assert available(str(tmp_path))
    assert not available(str(tmp_path / "none.npz"))


def test_a_class_that_can_give_no_more_leaves_it_to_another():
    labels = np.repeat([0, 1], [2, 12])
    kept, held = sets._hold_out(labels, True, 0.85, 0, "these")
    assert len(held) == round(0.85 * 14) and np.bincount(labels[kept]).tolist() == [1, 1]
