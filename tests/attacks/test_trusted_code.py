"""Code of one's own runs where it is repeated or trusted, and only there."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from bayesprune.commands.following_path import load_path
from bayesprune.commands.pruned_folder import load_pruned
from bayesprune.runs.code_trust import CodeNotTrusted
from bayesprune.runs.run_folder import load_run
from tests.attacks.armed_folders import commands

NET, PRIOR, KNOB = "{made}/own.py:net", "{made}/own.py:prior", "{made}/own.py:by_scale"


def allowances(small_folders, prior):
    repeated = ("--network", NET.format(made=small_folders), "--prior", prior.format(made=small_folders))
    return {"--trust-code": ("--trust-code",), "repeated": repeated}


@pytest.mark.parametrize("how", ["--trust-code", "repeated"])
def test_what_is_repeated_or_trusted_runs(own, small_folders, how, capsys):
    run, path, x = own / "own-run", own / "own-path", small_folders / "x.npy"
    allowed, on_path = allowances(small_folders, PRIOR)[how], allowances(small_folders, KNOB)[how]
    for given, more in (
        (("show", run), allowed),
        (("prune", run, "--sparsity", 0.5, "--compact", "--out", own / "a"), allowed),
        (("prune", path, "--sparsity", 0.5, "--out", own / "b"), on_path),
        (("predict", run, "--input", x, "--out", own / "a.npz"), allowed),
        (("predict", own / "a", "--input", x, "--out", own / "b.npz"), allowed),
    ):
        assert commands(*given) == (0 if given[0] == "show" else 2)
        assert not (small_folders / "ran").exists()
        assert "own.py" in "".join(capsys.readouterr())
        assert commands(*given, *more) == 0, capsys.readouterr().err
        assert (small_folders / "ran").exists()
        assert "--trust-code" not in "".join(capsys.readouterr())
        (small_folders / "ran").unlink()


def test_from_python_it_is_the_same(own, small_folders, capsys):
    run, path = own / "own-run", own / "own-path"
    assert commands("prune", run, "--sparsity", 0.5, "--trust-code", "--out", own / "a") == 0
    (small_folders / "ran").unlink()
    network, prior, knob = (one.format(made=small_folders) for one in (NET, PRIOR, KNOB))
    for read, folder, more in (
        (load_run, run, {"prior": prior}),
        (load_path, path, {"prior": knob}),
        (load_pruned, own / "a", {}),
    ):
        for insufficient in ({}, more, {"trust_code": False}):
            with pytest.raises(CodeNotTrusted, match="would be run"):
                read(folder, **insufficient)
        with pytest.raises(ValueError, match="--network is lenet-5, but .* names the network .*own.py:net"):
            read(folder, network="lenet-5", **more)
        assert not (small_folders / "ran").exists()
        for enough in ({"network": network, **more}, {"trust_code": True}):
            read(folder, **enough)
            assert (small_folders / "ran").exists()
            (small_folders / "ran").unlink()


def test_a_relative_file_is_the_same_reference(own, small_folders, monkeypatch):
    monkeypatch.chdir(small_folders)
    assert commands("prune", own / "own-run", "--sparsity", 0.5, "--network", "own.py:net", "--prior",
                    "./own.py:prior", "--out", own / "a") == 0  # fmt: skip


@pytest.mark.parametrize(
    "other", [("--network", "{own}/own.py:net"), ("--network", "own:net"), ("--prior", "laplace"), ("--prior", "{x}:b")]
)
def test_another_reference_is_refused_with_both(own, small_folders, other, capsys):
    shutil.copy(small_folders / "own.py", own / "own.py")
    option, reference = other[0], other[1].format(own=own, x=small_folders / "own.py")
    for more in ((), ("--trust-code",)):
        given = ("prune", own / "own-run", "--sparsity", 0.5, "--out", own / "a", option, reference, *more)
        assert commands(*given) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and reference in err and str(small_folders / "own.py") in err
    assert not (small_folders / "ran").exists()


def test_the_commands_that_are_printed_work(small_folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 3)
    folder = tmp_path / "with a space"
    folder.mkdir()
    shutil.copy(small_folders / "own.py", folder / "own.py")
    monkeypatch.chdir(tmp_path)
    drawn = []
    monkeypatch.setattr("bayesprune.commands.showing.write_plots", lambda *given: drawn.append(given) or [])
    given = ("--data", small_folders / "data.npz", "--epochs", 1, "--width", 0.02)
    assert commands("fit", "--prior", "with a space/own.py:prior", *given, "--out", "new") == 0
    *_, hint = capsys.readouterr().out.splitlines()
    assert hint.startswith("next: ")
    for command in hint.removeprefix("next: ").split("; "):
        assert commands(*shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert len(drawn) == 1 and Path("new-pruned").is_dir()
