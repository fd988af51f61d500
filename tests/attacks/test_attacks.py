"""Damaged files and impossible options: each ends with an exit code and one sentence, in time, and runs nothing.

A failure names the number of the attack; ``python -m tests.attacks NUMBER`` repeats it.
"""

from __future__ import annotations

import inspect

import pytest
import typer

from bayesprune.cli import app as cli
from bayesprune.models.priors.ready import PRIORS
from tests.attacks.attack_list import all_attacks
from tests.attacks.targets import make_targets

QUICK = 75
"""Attacks in the quick part."""
FEWEST = 1000
"""Of which there have to be more in all."""


@pytest.fixture(scope="session")
def targets(tmp_path_factory):
    """What is attacked."""
    folder = tmp_path_factory.mktemp("targets")
    make_targets(folder)
    return folder


@pytest.fixture(scope="session")
def attacks(targets):
    """All attacks, in order."""
    return all_attacks(targets)


def failures(attacks, numbers, targets, tmp_path):
    """One line for each thing that is wrong, with the command that repeats it."""
    found = []
    for number in numbers:
        sandbox = tmp_path / str(number)
        sandbox.mkdir()
        _, wrong = attacks[number].run(targets, sandbox)
        found += [f"python -m tests.attacks {number}   # {attacks[number].name}: {one}" for one in wrong]
    return found


def test_a_few_attacks_end_in_a_sentence(attacks, targets, tmp_path):
    stride = range(0, len(attacks), len(attacks) // QUICK)
    assert failures(attacks, stride, targets, tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_attack_ends_in_a_sentence(attacks, targets, tmp_path):
    assert failures(attacks, range(len(attacks)), targets, tmp_path) == []


def test_there_are_enough_attacks_and_a_number_always_means_the_same(attacks, targets):
    assert len(attacks) > FEWEST
    again = all_attacks(targets)
    assert [(one.name, one.command) for one in again] == [(one.name, one.command) for one in attacks]


def test_every_option_setting_and_file_is_attacked(attacks):
    lines = [" ".join(one.command) for one in attacks]
    for name, command in typer.main.get_command(cli.app).commands.items():
        options = [one.opts[0] for one in command.params if one.opts[0].startswith("-")]
        for option in options:
            assert any(line.startswith(f"{name} ") and f" {option}" in line for line in lines), (name, option)
    for name, entry in PRIORS.items():
        for key in entry.settings:
            assert any(f"--prior {name} " in line and f" --set {key}=" in line for line in lines), (name, key)
    for file in ("summary.json", "fit.json", "plan.json", "path.json", "progress.json", "checkpoint.json"):
        assert sum(f"/{file}" in one.name for one in attacks) > 20, file
    for file in ("restart-0.json", "restart-0.safetensors", "trace.nc", "labels.npz", "inputs.npy"):
        assert sum(file in one.name for one in attacks) > 20, file


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_the_commands_that_attacks_begin_with_end_well(every, targets, attacks, tmp_path):
    # Control: an attack on a command that fails anyway would find nothing.
    readers = {one.command: one for one in attacks if one.harm is not None and one.command[0] != "fit"}
    assert len(readers) > 20
    for number, one in enumerate(list(readers.values())[::every]):
        sandbox = tmp_path / str(number)
        sandbox.mkdir()
        whole = type(one)(one.name, one.command, one.needs)
        found, wrong = whole.run(targets, sandbox)
        if "away" not in one.command:  # made by the attack itself
            assert (found.code, wrong) == (0, []), (one.command, found.err)


def test_every_reader_of_the_command_line_is_a_target():
    # A command that is added has to be added to the attacks.
    from tests.attacks.option_mutations import BASES

    assert set(BASES) == set(typer.main.get_command(cli.app).commands)
    assert inspect.isfunction(cli.run)
