"""`bayesprune prune` by share and number, per distribution, of some tensors, and by criteria without a posterior."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from bayesprune.runs.run_folder import SUMMARY_FILE


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    """Digits by points."""
    out = tmp_path_factory.mktemp("runs") / "map"
    made("fit", "--data", "digits", "--network", "lenet-300-100", "--prior", "gaussian", "--guide", "map",
         "--epochs", 1, "--quiet", "--out", out)  # fmt: skip
    return out


def test_what_is_asked_for_is_done_and_said(made, run, tmp_path, capsys):
    made("prune", run, "--share", 0.25, "--per", "distribution", "--only", "fc[12]*", "--out", tmp_path / "a")
    found = json.loads((tmp_path / "a" / SUMMARY_FILE).read_text())
    assert found["rule"] == "share 0.25 of what was left per distribution of fc[12]*" and found["per"] == "distribution"
    masks = load_file(tmp_path / "a" / "masks.safetensors")
    left, whole = (
        sum(int(count(masks[f"fc{n}.weight"])) for n in (1, 2)) for count in (lambda m: m.sum(), lambda m: m.numel())
    )
    assert left == whole - round(0.25 * whole) and int(masks["fc3.weight"].min()) == 1
    assert found["rule"] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("criterion", ["random", "optimal-brain-damage", "deletion"])
def test_criteria_without_a_posterior(made, run, tmp_path, criterion):
    made("prune", run, "--count", 1000, "--criterion", criterion, "--quiet", "--out", tmp_path / "b")
    found = json.loads((tmp_path / "b" / SUMMARY_FILE).read_text())
    assert found["criterion"] == criterion and found["weights"] - found["nonzero"] == 1000


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--share", 0.5, "--count", 3), "give one of --sparsity, --share, --count, "),
        (("--share", 1.0), "leaves none of the"),
        (
            ("--share", 0.5, "--only", "fc9.weight"),
            "only='fc9.weight' matches no tensor that is pruned: did you mean fc",
        ),
        (("--share", 0.5, "--criterion", "chance"), "criterion 'chance' is unknown"),
        (
            ("--min-score", 0.5, "--criterion", "magnitude", "--per", "distribution"),
            "--per distribution is about where",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(command, run, tmp_path, given, says):
    code, _, error = command("prune", run, *given, "--out", tmp_path / "c")
    assert code != 0 and says in " ".join(error.split()) and not (tmp_path / "c").exists()
