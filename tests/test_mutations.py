"""The mutation runs find one place, say so where they do not, and put back what they changed."""

from __future__ import annotations

import pytest

from tests import mutations
from tests.mutations import MUTATIONS, Mutation, NotFoundError, home_of, tried

SIGN = Mutation("a sign", "a + b", "a - b", "tests")


@pytest.fixture
def package(tmp_path):
    for floor in mutations.FLOORS:
        (tmp_path / floor).mkdir()
    (tmp_path / "models" / "sums.py").write_text("def total(a, b):\n    return a + b\n")
    (tmp_path / "bayesprune" / "models").symlink_to("../models")  # seen once all the same
    return tmp_path


def test_a_text_that_is_there_once_is_found_and_others_are_refused(package):
    assert home_of(SIGN, package) == package / "models" / "sums.py"
    with pytest.raises(NotFoundError, match="is in: nowhere"):
        home_of(Mutation("gone", "a * b", "a / b", "tests"), package)
    (package / "analysis" / "more.py").write_text("x = a + b\n")
    with pytest.raises(NotFoundError, match="models/sums.py, analysis/more.py"):
        home_of(SIGN, package)


@pytest.mark.parametrize("ends", ["killed", "survived", "an error"])
def test_the_mistake_is_there_while_the_tests_run_and_gone_afterwards(package, monkeypatch, ends):
    file, seen = package / "models" / "sums.py", []

    def run(tests, root, processes):
        seen.append((tests, file.read_text()))
        if ends == "an error":
            raise KeyboardInterrupt
        return ends, "why"

    monkeypatch.setattr(mutations, "verdict", run)
    before = file.read_text()
    if ends == "an error":
        with pytest.raises(KeyboardInterrupt):
            tried(SIGN, package, 0, False)
    else:
        assert tried(SIGN, package, 0, False)[0] == ends
    assert file.read_text() == before
    asked = [["tests"], []] if ends == "survived" else [["tests"]]  # what survives meets all tests
    assert seen == [(tests, before.replace("+", "-")) for tests in asked]


def test_each_is_a_mistake_of_its_own():
    assert len(MUTATIONS) >= 30 and len({one.old for one in MUTATIONS}) == len(MUTATIONS)
    assert all(one.old != one.new for one in MUTATIONS)
    assert all((mutations.ROOT / place).exists() for one in MUTATIONS for place in one.tests.split())
