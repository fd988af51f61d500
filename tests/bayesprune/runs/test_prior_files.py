"""Priors and networks out of a user's own files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.priors.laplace import Laplace
from bayesprune.runs.prior_files import import_object, load_prior

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_prior.py"


def one_sentence(problem):
    text = str(problem.value)
    assert "\n" not in text
    return text


@pytest.fixture
def file(tmp_path):
    """Writes source to a file and returns its path."""

    def write(source, name="priors.py"):
        path = tmp_path / name
        path.write_text(source)
        return path

    return write


def test_the_example_is_six_lines_and_a_hierarchy():
    student = load_prior(f"{EXAMPLE}:student")
    assert isinstance(student, Hierarchy)
    assert list(student.latents) == ["scale"]
    assert student.config is None  # a prior of one's own: nothing by which it could be found without the file
    source = EXAMPLE.read_text()
    declaration = source[source.index("student = ") :].strip().splitlines()
    assert len(declaration) <= 6


def test_the_example_stands_in_the_documentation_of_the_module():
    import bayesprune.runs.prior_files

    source = EXAMPLE.read_text()
    declaration = [line.strip() for line in source[source.index("student = ") :].strip().splitlines()]
    documented = [line.strip() for line in (bayesprune.runs.prior_files.__doc__ or "").splitlines()]
    assert set(declaration) <= set(documented)


def test_a_function_is_called_with_the_settings(file):
    path = file("import bayesprune as bp\ndef lasso(scale=0.5):\n    return bp.Laplace(scale)\n")
    assert isinstance(load_prior(f"{path}:lasso"), Laplace)
    assert load_prior(f"{path}:lasso", {"scale": 2.0}).config["arguments"] == {"scale": 2.0}
    with pytest.raises(ValueError, match="its settings are scale") as problem:
        load_prior(f"{path}:lasso", {"scael": 2.0})
    one_sentence(problem)


def test_a_missing_name_lists_the_hierarchies_of_the_file(file):
    path = file("import bayesprune as bp\nfirst = bp.Gaussian()\nsecond = bp.Laplace()\nthird = 3\n")
    with pytest.raises(ValueError, match="has no prior 'fourth': it has first, second$"):
        load_prior(f"{path}:fourth")
    with pytest.raises(ValueError, match="third is of type int, not a Hierarchy: the file has first, second$"):
        load_prior(f"{path}:third")


def test_a_function_that_returns_something_else_is_refused(file):
    path = file("def f():\n    return 3\n")
    with pytest.raises(ValueError, match="returned int, not a Hierarchy: the file has no hierarchy"):
        load_prior(f"{path}:f")


def test_settings_for_a_finished_hierarchy_are_refused(file):
    path = file("import bayesprune as bp\nfirst = bp.Gaussian()\n")
    with pytest.raises(ValueError, match="takes no settings"):
        load_prior(f"{path}:first", {"sd": 1.0})


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "x = 1\nimport no_such_module\n",
            "in line 2 .ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("x = 1\n\ny = (\n", "in line 3 .SyntaxError"),
        ("def f():\n    raise KeyError('a\\nb')\nf()\n", "in line 2 .KeyError"),
        ("import sys\nsys.exit(3)\n", "in line 2 .SystemExit: 3"),
        (
            "import bayesprune as bp\np = bp.Hierarchy(weight=None)\n",
            "in line 2 .ValueError: the hierarchy declares no",
        ),
    ],
)
def test_an_error_in_the_file_is_told_with_its_line(file, source, said):
    path = file(source)
    with pytest.raises(ValueError, match=said) as problem:
        load_prior(f"{path}:p")
    assert str(path) in one_sentence(problem)


def test_a_function_that_fails_is_told_with_its_line(file):
    path = file("def f():\n    return 1 / 0\n")
    with pytest.raises(ValueError, match="in line 2 .ZeroDivisionError"):
        load_prior(f"{path}:f")


def test_a_missing_file_and_a_reference_without_a_name_are_told(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        load_prior(f"{tmp_path / 'none.py'}:p")
    for reference in ("own.py:", ":p", "own.py:two words"):
        with pytest.raises(ValueError, match="names no prior: write FILE.py:NAME"):
            load_prior(reference)


def test_a_file_changed_within_a_second_is_read_anew(file):
    path = file("import bayesprune as bp\np = bp.Laplace(0.1)\n")
    first = load_prior(f"{path}:p")
    file("import bayesprune as bp\np = bp.Laplace(0.2)\n")  # as long as before, and perhaps as old
    assert first.config["arguments"] != load_prior(f"{path}:p").config["arguments"]
    assert not (path.parent / "__pycache__").exists()


def test_a_file_may_import_its_neighbour_and_leaves_the_path_alone(file):
    file("SCALE = 0.25\n", name="neighbour_of_a_prior.py")
    path = file("import bayesprune as bp\nfrom neighbour_of_a_prior import SCALE\np = bp.Laplace(SCALE)\n")
    before = list(sys.path)
    assert load_prior(f"{path}:p").config["arguments"] == {"scale": 0.25}
    assert sys.path == before


def test_an_object_of_a_module_is_found_by_its_dotted_name():
    assert import_object("bayesprune.models.networks.lenet:lenet_5", "network").__name__ == "lenet_5"
    with pytest.raises(ValueError, match="the module bayesprune.models.networx cannot be imported"):
        import_object("bayesprune.models.networx:lenet_5", "network")
    with pytest.raises(ValueError, match="has no 'lenet_6': it has lenet_300_100, lenet_5"):
        import_object("bayesprune.models.networks.lenet:lenet_6", "network")
