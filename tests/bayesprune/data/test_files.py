from __future__ import annotations

import os
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from bayesprune.data.files import read_idx, validate_arrays
from bayesprune.data.sets import load_data
from bayesprune.runs.declaration import declare


def refuses(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders of images


def image_folder(path, classes=("cat", "dog"), n=10, mode="L", size=(7, 6)):
    generator = np.random.default_rng(2)
    for name in classes:
        (path / name).mkdir(parents=True)
        for i in range(n):
            shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
            pixels = generator.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels, mode=None).save(path / name / f"{i:02}.png")


def test_folder_with_train_and_test(tmp_path):
    image_folder(tmp_path / "train")
    image_folder(tmp_path / "test", n=4)
    splits = load_data(tmp_path)
    assert (splits.classes, splits.input_shape, splits.class_names) == (2, (1, 6, 7), ("cat", "dog"))
    assert [len(y) for _, y in (splits.train, splits.validation, splits.test)] == [18, 2, 8]
    assert splits.test[1].tolist() == [0] * 4 + [1] * 4
    pixels = np.asarray(Image.open(tmp_path / "test/dog/01.png")) / 255
    np.testing.assert_allclose(splits.test[0][5, 0] * splits.sd + splits.mean, pixels, atol=1e-6)


@pytest.mark.parametrize("inside", [".", "train"])
def test_folder_without_test_gives_a_fifth(tmp_path, inside):
    image_folder(tmp_path / inside)
    (tmp_path / ".hidden").mkdir()
    splits = load_data(str(tmp_path))
    assert [len(y) for _, y in (splits.train, splits.validation, splits.test)] == [14, 2, 4]
    assert splits.test[1].tolist() == [0, 0, 1, 1]


def test_colour_images_have_three_channels_in_order(tmp_path):
    image_folder(tmp_path / "train", mode="RGB")
    image_folder(tmp_path / "test", n=1, mode="RGB")
    splits = load_data(tmp_path)
    assert splits.input_shape == (3, 6, 7)
    pixels = np.asarray(Image.open(tmp_path / "test/cat/00.png")).transpose(2, 0, 1) / 255
    restored = splits.test[0][0] * splits.sd[:, None, None] + splits.mean[:, None, None]
    np.testing.assert_allclose(restored, pixels, atol=1e-6)


def test_one_colour_image_makes_all_of_them_colour(tmp_path):
    image_folder(tmp_path)
    Image.fromarray(np.full((6, 7, 4), 9, dtype=np.uint8)).save(tmp_path / "cat/rgba.png")
    assert load_data(tmp_path).input_shape == (3, 6, 7)


def test_unfit_folders_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refuses(lambda: load_data(tmp_path / "empty"), "has no images")
    image_folder(tmp_path / "sizes")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "sizes/dog/odd.png")
    refuses(lambda: load_data(tmp_path / "sizes"), r"odd.png has 8 x 8 pixels, but 7 x 6 as in .*00.png")
    image_folder(tmp_path / "damaged")
    victim = tmp_path / "damaged/dog/03.png"
    for damage in (victim.read_bytes()[:60], b"", b"text"):
        victim.write_bytes(damage)
        refuses(lambda: load_data(tmp_path / "damaged"), "dog/03.png cannot be read as an image")
    image_folder(tmp_path / "unseen/train")
    image_folder(tmp_path / "unseen/test", classes=("cat", "eel"))
    refuses(lambda: load_data(tmp_path / "unseen"), "class 'eel'")
    image_folder(tmp_path / "bare")
    (tmp_path / "bare" / "fox").mkdir()
    refuses(lambda: load_data(tmp_path / "bare"), "fox has no images")
    image_folder(tmp_path / "deep")
    Image.fromarray(np.zeros((6, 7), dtype=np.uint16)).save(tmp_path / "deep/cat/16bit.png")
    refuses(lambda: load_data(tmp_path / "deep"), r"16bit.png has pixels of mode I;16, but 8 bits")


# npz files


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture
def features():
    return np.random.default_rng(4).normal(3, [1, 5, 0.1], (100, 3))


def test_features_are_standardised_one_by_one_and_constants_left_alone(tmp_path, features):
    features = np.column_stack([features, np.full(100, 0.1), np.ones(100)])
    file = save(tmp_path / "f.npz", x=features, y=np.arange(100) % 4)
    splits = load_data(file)
    assert (splits.classes, splits.input_shape) == (4, (5,))
    train = splits.train[0].double()
    assert train[:, :3].mean(0).abs().max() < 1e-6
    assert (train[:, :3].std(0, correction=0) - 1).abs().max() < 1e-6
    assert (train[:, 3] == np.float32(0.1)).all()
    assert (splits.test[0][:, 4] == 1).all()
    assert splits.mean[3:].tolist() == [0, 0]
    assert splits.sd[3:].tolist() == [1, 1]


def test_test_arrays_are_used_as_they_are(tmp_path, features):
    file = save(tmp_path / "f.npz", x=features, y=np.arange(100) % 4, x_test=features[:9], y_test=np.zeros(9, int))
    splits = load_data(file, validation_fraction=0)
    assert len(splits.train[1]) == 100
    restored = splits.test[0] * splits.sd + splits.mean
    np.testing.assert_allclose(restored, features[:9], atol=1e-5)
    assert splits.test[1].tolist() == [0] * 9


@pytest.mark.parametrize("shape", [(100,), (100, 1), (100, 2)])
def test_float_targets_make_a_regression_in_their_own_units(tmp_path, features, shape):
    y = np.random.default_rng(0).normal(50, 9, shape)
    splits = load_data(save(tmp_path / "f.npz", x=features, y=y))
    assert splits.classes is None
    assert splits.train[1].dtype == torch.float32
    assert splits.train[1].shape[1:] == ((2,) if shape == (100, 2) else ())
    everything = torch.cat([p[1] for p in (splits.train, splits.validation, splits.test)])
    assert everything.sum().item() == pytest.approx(y.sum(), rel=1e-5)
    assert [len(p[1]) for p in (splits.train, splits.validation, splits.test)] == [72, 8, 20]


def test_byte_images_are_scaled_and_standardised_per_channel(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (50, 6, 6), dtype=np.uint8)
    y = np.arange(50) % 5
    grey = load_data(save(tmp_path / "g.npz", x=x, y=y))
    assert (grey.input_shape, tuple(grey.mean.shape)) == ((1, 6, 6), (1,))
    assert 0.4 < grey.mean.item() < 0.6
    colour = load_data(save(tmp_path / "c.npz", x=np.stack([x, x // 2], 1), y=y))
    assert (colour.input_shape, tuple(colour.mean.shape)) == ((2, 6, 6), (2,))
    torch.testing.assert_close(colour.train[0].mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    floats = load_data(save(tmp_path / "f.npz", x=np.stack([x, x // 2], 1) / 255, y=y))
    torch.testing.assert_close(floats.train[0], colour.train[0], atol=1e-5, rtol=0)


def test_bytes_that_are_no_images_are_features(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (50, 6), dtype=np.uint8)
    splits = load_data(save(tmp_path / "t.npz", x=x, y=np.arange(50) % 5))
    assert (splits.input_shape, tuple(splits.sd.shape)) == ((6,), (6,))
    assert load_data(save(tmp_path / "o.npz", x=x[:, 0], y=np.arange(50) % 5)).input_shape == (1,)


def test_damaged_npz_is_named_in_one_sentence(tmp_path, features):
    file = save(tmp_path / "damaged.npz", x=features, y=np.arange(100) % 4)
    raw = file.read_bytes()
    flipped = bytearray(raw)
    flipped[900] ^= 0xFF
    for damage in (raw[: len(raw) // 2], raw[:-20], b"", b"text", bytes(flipped)):
        file.write_bytes(damage)
        refuses(lambda: load_data(file), "damaged.npz cannot be read")
    np.savez_compressed(file, x=features, y=np.arange(100) % 4)
    raw = file.read_bytes()
    file.write_bytes(raw[:200] + bytes(100) + raw[300:])
    refuses(lambda: load_data(file), "damaged.npz cannot be read")
    with file.open("wb") as handle:
        np.save(handle, features)
    refuses(lambda: load_data(file), "damaged.npz cannot be read")
    save(file, x=np.array([{}, None]), y=np.arange(2))
    refuses(lambda: load_data(file), "damaged.npz cannot be read.*[Oo]bject arrays")


def test_unfit_npz_is_refused(tmp_path, features):
    file = tmp_path / "f.npz"
    refuses(lambda: load_data(file), "there is no file .*f.npz")
    y = np.arange(100) % 4
    save(file, x=features)
    refuses(lambda: load_data(file), "no array 'y'")
    save(file, data=features, y=y)
    refuses(lambda: load_data(file), "no array 'x'")
    save(file, x=features, y=y, x_test=features)
    refuses(lambda: load_data(file), "only one of x_test and y_test")
    save(file, x=features, y=y, x_test=features[:, :2], y_test=y)
    refuses(lambda: load_data(file), r"x_test has shape \(2,\), but \(3,\)")
    save(file, x=features, y=y, x_test=features, y_test=y + 1)
    refuses(lambda: load_data(file), r"x_test, y_test.*25 labels.*first \(4\) at index 3.*0\.\.3")
    save(file, x=features * 1e307, y=y)
    refuses(lambda: load_data(file), "x has values too large")
    save(file, x=features, y=y * 1e300)
    refuses(lambda: load_data(file), "y has values too large")
    save(file, x=features[:1], y=y[:1])
    refuses(lambda: load_data(file), "too few")
    save(file, x=features, y=y, x_test=features.astype(np.uint8), y_test=y)
    refuses(lambda: load_data(file), "x_test has dtype uint8")
    broken = features.copy()
    broken[7, 2] = np.nan
    save(file, x=broken, y=y)
    refuses(lambda: load_data(file), r"f.npz: x holds 1 NaN or infinite values, the first at index \(7, 2\)")


# validate_arrays

X = np.ones((4, 2))
BAD = [
    (np.array([[1, np.nan], [np.inf, 0]]), [0, 1], None, r"x holds 2 NaN or infinite.*index \(0, 1\)"),
    (X, [0.0, 1.0, np.nan, np.inf], None, r"y holds 2 NaN or infinite.*index \(2,\)"),
    (X, [0, 1, 2], None, "x has 4 examples and y has 3"),
    (X, [0, 1, -1, -2], None, r"2 labels.*out of range, the first \(-1\) at index 2.*from 0 up"),
    (X, [0, 1, 3, 2], 3, r"1 labels.*out of range, the first \(3\) at index 2.*0\.\.2"),
    (X, [0, 1.5, 2, 1], 3, r"not whole numbers, the first \(1.5\) at index 1"),
    (X, [[0], [1], [0], [1]], None, r"y has shape \(4, 1\)"),
    (X, np.zeros((4, 2, 2)), None, r"targets \(N,\) or \(N, d\)"),
    (np.ones((0, 2)), [], None, r"x has shape \(0, 2\)"),
    (np.ones((4, 0)), [0, 1, 0, 1], None, r"x has shape \(4, 0\)"),
    (np.ones((4, 2), dtype=complex), [0, 1, 0, 1], None, "x has dtype complex128"),
    (X, ["a", "b", "c", "d"], None, "y has dtype <U1"),
    (torch.tensor([[float("nan")]]), torch.tensor([0]), None, r"x holds 1 NaN"),
]


@pytest.mark.parametrize(("x", "y", "classes", "message"), BAD)
def test_arrays_that_would_spoil_a_fit_are_refused(x, y, classes, message):
    refuses(lambda: validate_arrays(x, y, classes=classes, what="my.npz"), "^my.npz: .*" + message)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        ([0, 1, 2, 3], 4),
        ([0, 1, 7, 3], None),
        ([0.5, -1, 2, 3], None),
        ([0.0, 1.0, 2.0, 1.0], 3),
        ([True, False] * 2, 2),
    ],
)
def test_fit_arrays_pass(y, classes):
    validate_arrays(X, np.array(y), classes=classes)
    validate_arrays(torch.tensor(X), torch.tensor(y), classes=classes)


@pytest.mark.parametrize("wrong", [3000, 10**6, 255])
def test_a_label_far_above_the_number_of_classes_is_refused_where_labels_are_declared_classes(tmp_path, wrong):
    y = np.arange(200) % 2
    y[7] = wrong
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(200, 3)), y=y)
    splits = load_data(tmp_path / "d.npz")
    message = f"the largest label in .*d.npz is {wrong}, but there are [23] different ones"
    refuses(lambda: declare(splits, "lenet-300-100", "gaussian"), message)
    refuses(lambda: declare(splits, "lenet-300-100", "gaussian", likelihood="categorical"), message)


def test_whole_numbers_are_counts_where_the_likelihood_says_so(tmp_path):
    counts = np.random.default_rng(0).poisson(2000, 300)
    x = np.random.default_rng(1).normal(size=(300, 3))
    np.savez(tmp_path / "d.npz", x=x, y=counts, x_test=x[:9], y_test=counts[:9] + 1000)
    splits = load_data(tmp_path / "d.npz")
    assert int(splits.test[1].min()) > int(splits.train[1].max())
    declared = declare(splits, "lenet-300-100", "gaussian", likelihood="poisson")
    assert (declared.outputs, declared.likelihood) == (1, "poisson")
    refuses(lambda: declare(splits, "lenet-300-100", "gaussian"), "or say likelihood 'poisson' for counts")


def test_counts_that_all_differ_are_split_as_numbers(tmp_path):
    y = np.arange(300) * 1000
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(300, 3)), y=y)
    splits = load_data(tmp_path / "d.npz")
    parts = [part[1] for part in (splits.train, splits.validation, splits.test)]
    assert min(len(part) for part in parts) > 0 and sorted(torch.cat(parts).tolist()) == y.tolist()
    assert parts[0].dtype == torch.int64


def test_a_number_beyond_64_bits_is_told(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3))
    for largest in (2**63, 2**63 - 1):
        y = (np.arange(40) % 2).astype(np.uint64)
        y[7] = largest
        np.savez(tmp_path / "d.npz", x=x, y=y)
        if largest == 2**63:
            refuses(lambda: load_data(tmp_path / "d.npz"), "largest number in y is 9223372036854775808")
        else:
            assert load_data(tmp_path / "d.npz").classes == 2**63


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([0, 1, 99], 100),  # up to a hundred classes any may be absent
        ([5], 6),
        (range(9, 1000, 10), 1000),  # a hundred of the thousand of ImageNet
        ([0, *range(50, 62)], 62),
    ],
)
def test_absent_classes_are_allowed(tmp_path, labels, classes):
    y = np.resize(list(labels), 300)
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(300, 3)), y=y)
    assert load_data(tmp_path / "d.npz").classes == classes


# ------------------------------------------------------------------------------------- what stands in a file's place


def write_idx(file, shape, content):
    file.write_bytes(bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content)


def test_an_idx_file_is_read_as_far_as_it_says_and_no_further(tmp_path):
    file = tmp_path / "labels"
    write_idx(file, (3,), bytes([7, 8, 9]))
    assert read_idx(file, dimensions=1).tolist() == [7, 8, 9]
    for content in (bytes([7, 8]), bytes([7, 8, 9, 10])):  # controls: a byte less, a byte more
        write_idx(file, (3,), content)
        refuses(lambda: read_idx(file, dimensions=1), "no IDX file")
    os.truncate(file, 1 << 40)  # sparse: reading all of it would take a tebibyte
    refuses(lambda: read_idx(file, dimensions=1), "no IDX file")
    write_idx(file, (2**32 - 1, 2**32 - 1, 2**31), b"")
    refuses(lambda: read_idx(file, dimensions=3), "cannot be read")


def test_a_pipe_among_images_is_not_waited_for(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / name / "1.png")
    os.mkfifo(tmp_path / "a" / "2.png")
    refuses(lambda: load_data(tmp_path), "2.png is no file, but an image is expected")


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 6), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (1180591620717411303424, 6), }",
        b"{'descr': '<f8', 'fortran",
        b"(" * 5000 + b")" * 5000,
    ],
    ids=["a tebibyte of numbers", "beyond 64 bits", "cut", "nested"],
)
def test_a_header_that_cannot_be_meant_is_told_in_a_sentence(tmp_path, header):
    file = tmp_path / "damaged.npz"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", array)
        archive.writestr("y.npy", array)
    message = refuses(lambda: load_data(file), "damaged.npz cannot be read")
    assert "Error" not in message
