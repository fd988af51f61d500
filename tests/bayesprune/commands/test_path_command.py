"""`bayesprune path`, and `bayesprune prune` of what it makes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bayesprune.commands import following_path
from bayesprune.inference.sparsity_path import folder, next_fit
from bayesprune.inference.sparsity_path.folder import read_index

ROOT = Path(__file__).parents[3]


def arguments(networks_file, out, *more, values="3,30", epochs=1):
    given = ["path", "--data", "digits", "--network", f"{networks_file}:small", "--prior", "halo", "--knob", "kappa"]
    given += ["--values", values, "--epochs", epochs, "--restarts", 2, "--sparsities", "0.5,0.9", "--device", "cpu"]
    return [*given, "--learning-rate", 0.01, "--quiet", "--out", out, *more]


@pytest.fixture(scope="module")
def finished(made, networks_file, tmp_path_factory):
    """The folder of a path, made once; nothing may change it."""
    out = tmp_path_factory.mktemp("paths") / "halo"
    made(*arguments(networks_file, out, epochs=5))
    return out


def test_a_path_writes_its_fits_an_index_and_a_picture(finished):
    assert {file.name for file in finished.iterdir()} == {"path.json", "point-000", "point-001", "front.png"}
    assert (finished / "front.png").read_bytes().startswith(b"\x89PNG")
    found = read_index(finished)
    assert found["knob"] == "kappa" and found["values"] == [3.0, 30.0] and len(found["points"]) == 2
    assert found["arguments"]["epochs"] == 5 and found["arguments"]["first_epochs"] == 15
    assert found["declaration"]["prior"] == "halo" and found["declaration"]["data"] == "digits"
    declared, path = following_path.load_path(finished, trust_code=True)
    assert declared == found["declaration"] and "network_settings" not in declared  # as in earlier versions
    assert path.fit(30.0).settings["warm_start"] and path.fit(30.0).model.data_size == declared["data_size"]


def test_every_key_of_the_index_is_documented(finished):
    documentation = (ROOT / "docs" / "front.md").read_text()
    documented = set(re.findall(r"`([a-z_]+)`", documentation))
    found = read_index(finished)
    keys = {*found, *found["arguments"], *found["declaration"], *found["points"][0]}
    keys |= {name.removeprefix("validation_").removeprefix("test_") for name in found["points"][0]["networks"][0][0]}
    assert keys <= documented
    assert set(found) <= set(re.findall(r"[a-z_]+", folder.__doc__))
    assert "no_such_key" not in documented  # control


def test_the_same_command_goes_on_where_it_was_stopped(command, networks_file, tmp_path, monkeypatch):
    real, out = next_fit.fit, tmp_path / "path"
    calls = iter(range(10))

    def stopped(*given, **more):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(next_fit, "fit", stopped)
        code, printed, err = command(*arguments(networks_file, out))
    assert (code, printed) == (130, "")
    assert err == f"error: interrupted; the same command goes on with what is finished in {out}\n"
    first = (out / "point-000" / "restart-0.safetensors").stat().st_mtime_ns
    code, printed, err = command(*[part for part in arguments(networks_file, out) if part != "--quiet"])
    assert code == 0 and (out / "point-000" / "restart-0.safetensors").stat().st_mtime_ns == first
    table = printed.splitlines()
    assert table[0].split()[:3] == ["kappa", "pruning", "sparsity"] and len(read_index(out)["points"]) == 2
    assert sum(line.split()[1:3] == ["sparsity", "0.9"] for line in table) == 2
    again = f"--network {networks_file}:small"  # code of one's own is repeated
    assert table[-1] == f"next: bayesprune prune {out} --sparsity 0.95 {again} --out {out}-pruned"


def test_workers_make_networks_of_ones_own_file_and_the_same_numbers(made, networks_file, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers have
    try:
        for workers in (1, 2):
            made(*arguments(networks_file, tmp_path / f"of-{workers}", "--workers", workers, "--cold", values="3"))
    finally:
        torch.set_num_threads(threads)
    one, two = (read_index(tmp_path / f"of-{workers}") for workers in (1, 2))
    for found in (one, two):
        assert found["arguments"].pop("warm") is False and found["points"][0].pop("seconds") > 0
    assert one == two and len(one["points"][0]["fits"]) == 2


def test_other_arguments_are_told_in_one_line(refused, networks_file, finished):
    refused(arguments(networks_file, finished, epochs=6), "epochs 5, but now it is 6", "choose another folder")
    refused(arguments(networks_file, finished, "--set", "kappa=3"), "--set gives kappa, which --values go along")
    refused(arguments(networks_file, finished, values="3,x", epochs=5), "--values takes numbers with commas", "'3,x'")
    refused(arguments(networks_file, finished, values="3,-1", epochs=5), "HALO(kappa=...) must not be negative, not -1")
    wrong = [part if part != "kappa" else "kapa" for part in arguments(networks_file, finished, epochs=5)]
    refused(wrong, "the prior halo has no setting 'kapa' (did you mean 'kappa'?)")


def test_a_network_of_the_path_is_pruned_to_a_folder(command, finished, tmp_path):
    _, path = following_path.load_path(finished, trust_code=True)
    choice = path.choose(sparsity=0.9)
    code, printed, _ = command("prune", finished, "--sparsity", 0.9, "--compact", "--out", tmp_path / "pruned")
    assert code == 0 and f"kappa = {choice.value:g}, restart {choice.restart}" in printed
    found = json.loads((tmp_path / "pruned" / "summary.json").read_text())
    assert (found["restart"], found["sparsity"]) == (choice.restart, choice.sparsity)
    assert found["test_accuracy_after"] == pytest.approx(choice.scores["test_accuracy"], abs=1e-12)
    assert (found["guide"], found["prior"], found["data"]) == ("map", "halo", "digits")
    weights = load_file(tmp_path / "pruned" / "weights.safetensors")
    assert sum(int(torch.count_nonzero(weights[name])) for name in ("1.weight", "3.weight")) == found["nonzero"]
    code, _, _ = command("prune", finished, "--value", 3, "--restart", 1, "--quiet", "--out", tmp_path / "other")
    assert code == 0 and json.loads((tmp_path / "other" / "summary.json").read_text())["restart"] == 1


def test_wrong_usage_of_prune_with_a_path_is_told(refused, finished, tmp_path):
    start = ["prune", finished, "--out", tmp_path / "pruned"]
    refused(start, "give --sparsity, --value or --min-accuracy")
    refused([*start, "--min-inclusion", 0.5], "--min-inclusion says how a run is pruned", "leave it out")
    refused([*start, "--sparsity", 0.5, "--criterion", "magnitude"], "--criterion says how a run is pruned")
    refused([*start, "--sparsity", 0.95], "no network of the path meets that")
    refused([*start, "--value", 4], "the path has no fit at kappa = 4: its values are 3, 30")
    refused(["prune", tmp_path, "--value", 3, "--out", tmp_path / "pruned"], "--value chooses a network of a path")
    assert not (tmp_path / "pruned").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("network", None), ("prior", []), ("input_shape", "x"), ("input_shape", [None]), ("outputs", "3"), ("on", [1]),
     ("data", None), ("data_seed", []), ("width", None), ("prior_settings", "x"), ("likelihood", None)],
)  # fmt: skip
def test_wrongly_typed_declarations_are_told(refused, finished, tmp_path, key, value):
    folder = shutil.copytree(finished, tmp_path / "path")
    index = json.loads((folder / "path.json").read_text())
    index["declaration"][key] = value
    (folder / "path.json").write_text(json.dumps(index))
    refused(("prune", folder, "--sparsity", 0.5, "--out", tmp_path / "p"), "path.json is damaged", key)


def test_a_path_made_from_python_is_told_so(refused, finished, tmp_path):
    copied = shutil.copytree(finished, tmp_path / "path")
    index = read_index(copied)
    (copied / "path.json").write_text(json.dumps({**index, "declaration": None}))
    refused(["prune", copied, "--value", 3, "--out", tmp_path / "pruned"], "was made from Python", "SparsityPath.load")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (",".join(["3"] * 1001), "--values has 1,001 numbers, but at most 1,000 are taken"),
        ("3,x," + "9" * 5000, "--values takes numbers with commas between them"),
        ("3,nan", "--values takes finite numbers, not nan"),
        ("1e400,3", "--values takes finite numbers, not 1e400"),
        (",,", "--values takes numbers"),
    ],
    ids=["too many", "a text", "NaN", "too large", "nothing"],
)
def test_values_that_no_path_goes_along_are_told_at_once(values, said):
    with pytest.raises(ValueError, match=said) as raised:
        following_path.parse_numbers(values, "--values")
    assert len(str(raised.value)) < 250
    assert following_path.parse_numbers("0.3,1e-2", "--values") == [0.3, 0.01]  # control


def test_settings_that_are_nested_too_deeply_are_told(refused):
    start = ["path", "--data", "digits", "--prior", "halo", "--knob", "kappa", "--values", "3,9", "--out", "nowhere"]
    refused([*start, "--set", "prior_sd=" + "[" * 100_000], "--set gives prior_sd lists in lists")
    refused(
        [*start, "--set", "prior_sd=abc"], "the setting prior_sd of the prior halo takes a number or null, not 'abc'"
    )
