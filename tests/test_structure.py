"""The rules of the house: imports run one way, wings keep to their table, files stay small."""

from __future__ import annotations

import ast
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

import bayesprune
from tests.wings import WINGS

ROOT = Path(__file__).parents[1]
FLOORS = ("models", "inference", "analysis", "bayesprune")  # a floor imports itself and the floors before it
FACE = FLOORS.index("bayesprune")
LONGEST = 500  # lines of a test, a benchmark
LONGEST_OF_THE_PACKAGE = 450
MOST = 20  # files of a folder of the package
NAMELESS = {"util", "utils", "helper", "helpers", "common", "misc"}
FACE_NAMES = {*bayesprune.__all__, "__main__"}  # of the face itself, which stands in no wing


def python_files(*folders):
    """The source files below folders of the checkout; links are not followed, so each file comes once."""
    found = []
    for folder in folders:
        for path, subfolders, names in os.walk(ROOT / folder):
            subfolders[:] = [name for name in subfolders if name != "__pycache__"]
            found += [Path(path, name).relative_to(ROOT) for name in names if name.endswith(".py")]
    return sorted(found)


CODE = python_files(*FLOORS)
ALL = CODE + python_files("tests", "benchmarks", ".ci")


def wrong_files(files, rule):
    """What `rule(source, path)` finds wrong, by file: a test asks it of a whole floor and names all files at once."""
    found = {str(path): rule((ROOT / path).read_text(), path) for path in files}
    return {path: wrong for path, wrong in found.items() if wrong}


def on_floor(floor):
    """The files of the package that stand on a floor."""
    return [path for path in CODE if path.parts[0] == floor]


# ----------------------------------------------------------------------------------------------- imports


@cache
def parsed(source):
    """The syntax tree: several rules look at the same file."""
    return ast.parse(source)


@cache
def imported_modules(source):
    """(line, dotted name) of every import: in functions, for type checkers, and by import_module too."""
    return list(_imported_modules(source))


def _imported_modules(source):
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from bayesprune import models` imports the floor, not the face.
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and (name := name_by_call(node)) is not None:
            yield node.lineno, name


IMPORTERS = {"import_module", "__import__"}


def name_of(node):
    """The last part of what an expression names: `import_module` of `importlib.import_module`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def name_by_call(node):
    """The constant that a call imports; None for other calls, and for what is only known when it runs."""
    if name_of(node.func) not in IMPORTERS:
        return None
    asked = node.args[0] if node.args else next((one.value for one in node.keywords if one.arg == "name"), None)
    return asked.value if isinstance(asked, ast.Constant) and isinstance(asked.value, str) else None


def imports_by_variable(source):
    """One line for each use of an importer that no test can follow: of a variable, or under another name."""
    followed, wrong = set(), []
    for node in ast.walk(parsed(source)):  # a call comes before what it calls
        if isinstance(node, ast.Call) and name_by_call(node) is not None:
            followed.add(node.func)
        elif isinstance(node, ast.ImportFrom):
            wrong += [f"line {node.lineno}: {one.name}" for one in node.names if one.name in IMPORTERS and one.asname]
        elif isinstance(node, ast.Name | ast.Attribute) and name_of(node) in IMPORTERS and node not in followed:
            wrong.append(f"line {node.lineno}: {name_of(node)}")
    return wrong


IMPORT_BY_VARIABLE = {
    "bayesprune/__init__.py",  # a public name from its home
    "bayesprune/runs/prior_files.py",  # what a user named
    "models/deployment/onnx_export.py",  # packages of an extra, if they are there
    "models/language/declaration_transport.py",  # the same
    "models/likelihoods/names.py",  # a likelihood from its home
    "models/priors/ready.py",  # the files of its own folder
}
"""Files that import what is only known when they run: a new one is a decision, and is made here."""


def test_only_files_that_are_named_import_by_a_variable():
    assert set(wrong_files(CODE, lambda source, path: imports_by_variable(source))) == IMPORT_BY_VARIABLE


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import_module(home)", 1),
        ("importlib.import_module(name=f'bayesprune.{x}')", 1),
        ("from importlib import import_module as load\nload('bayesprune.analysis')", 1),
        ("load = importlib.import_module\nload('bayesprune.analysis')", 1),
        ("[*map(__import__, names)]", 1),
        ("from importlib import import_module\nimport_module('arviz')", 0),
        ("importlib.import_module(name='arviz', package=None)", 0),
    ],
)
def test_an_import_by_a_variable_is_caught(source, count):
    assert len(imports_by_variable(source)) == count


def forbidden_imports(source, floor):
    """One line for each import that a file on `floor` must not have."""
    wrong = []
    for line, name in imported_modules(source):
        parts = name.split(".")
        if name.startswith("."):
            wrong.append(f"line {line}: {name} is relative, expected an absolute import")
        elif parts[0] in FLOORS[:FACE]:
            wrong.append(f"line {line}: {name} loads a second copy, expected bayesprune.{name}")
        elif parts[0] == "bayesprune" and len(parts) == 2 and parts[1] in FLOORS[:FACE]:
            wrong.append(f"line {line}: {name} is a whole floor, expected a file of it")
        elif parts[0] == "bayesprune":
            inner = parts[1] if len(parts) > 1 and parts[1] in FLOORS else "bayesprune"
            if FLOORS.index(inner) > FLOORS.index(floor):
                wrong.append(f"line {line}: {name} is above {floor}")
    return wrong


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_run_one_way(floor):
    assert wrong_files(on_floor(floor), lambda source, path: forbidden_imports(source, floor)) == {}


def test_tests_and_benchmarks_import_by_the_full_name():
    others = [path for path in ALL if path not in CODE]
    assert wrong_files(others, lambda source, path: forbidden_imports(source, "bayesprune")) == {}


def test_a_file_that_is_wrong_is_named_and_no_other():
    def of_one_file(source, path):
        return ["line 1"] if path.name == "hierarchy.py" else []

    assert wrong_files(on_floor("models"), of_one_file) == {"models/language/hierarchy.py": ["line 1"]}


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("models", "from bayesprune.inference.training.fit import fit"),
        ("models", "import bayesprune.analysis.arviz.to_arviz"),
        ("models", "from bayesprune import HALO"),
        ("models", "import bayesprune"),
        ("inference", "from bayesprune import analysis"),
        ("inference", "from bayesprune.data.sets import load_data"),
        ("inference", "def f():\n    from bayesprune.analysis.tables.layer_table import layer_table"),
        ("inference", "if TYPE_CHECKING:\n    from bayesprune.analysis import convergence"),
        ("inference", "importlib.import_module('bayesprune.analysis.plots.scales')"),
        ("analysis", "from bayesprune.cli.app import main"),
        ("analysis", "from bayesprune import load_data"),
        ("analysis", "from .layer_table import layer_table"),
        ("analysis", "from . import layer_table"),
        ("bayesprune", "from models.halo import HALO"),
        ("bayesprune", "import inference"),
        ("inference", "from bayesprune import models"),
        ("inference", "import bayesprune.models as m"),
        ("inference", "import_module(name='bayesprune.analysis.plots.scales')"),
    ],
)
def test_a_forbidden_import_is_caught(floor, source):
    assert len(forbidden_imports(source, floor)) == 1


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("models", "import torch\nfrom torchvision import models\nfrom bayesprune.models.priors.halo import HALO"),
        ("inference", "from bayesprune.models import bayesian_network\nfrom pyro import infer"),
        ("analysis", "from bayesprune.inference.fit_result import Fit\nfrom bayesprune.models.priors.halo import HALO"),
        (
            "bayesprune",
            "from bayesprune.analysis.arviz.to_arviz import to_arviz\nfrom bayesprune.data.sets import load_data",
        ),
    ],
)
def test_an_allowed_import_is_let_through(floor, source):
    assert forbidden_imports(source, floor) == []


# ------------------------------------------------------------------------------------------------- wings


def wing_of(module):
    """(floor, wing) of a dotted name; None for floors themselves, for the face and for a public name asked of it."""
    parts = module.split(".")
    if parts[0] != "bayesprune" or len(parts) < 2 or (len(parts) == 2 and parts[1] in FACE_NAMES):
        return None
    if parts[1] in FLOORS[:FACE]:
        return (parts[1], parts[2]) if len(parts) > 2 else None
    return ("bayesprune", parts[1])


def home_of(path):
    """The dotted name of a file of the package."""
    parts = path.with_suffix("").parts
    dotted = ".".join(parts if parts[0] == "bayesprune" else ("bayesprune", *parts))
    return dotted.removesuffix(".__init__")


def wrong_wings(source, module):
    """One line for each import into a wing of the same floor that the table does not allow."""
    here = wing_of(module)
    if here is None:
        return []
    floor, wing = here
    if wing not in WINGS[floor]:
        return [f"{floor}/{wing} stands in no table"]
    allowed = WINGS[floor][wing].split()
    found = wings_imported(source, module)
    return [f"line {line}: {floor}/{wing} may not import {there}" for line, there in found if there not in allowed]


def wings_imported(source, module):
    """(line, wing) of every import of another wing of the floor that a file stands on."""
    floor, wing = wing_of(module)
    found = [(line, wing_of(name)) for line, name in imported_modules(source)]
    return [(line, there[1]) for line, there in found if there is not None and there[0] == floor and there[1] != wing]


@pytest.mark.parametrize("floor", FLOORS)
def test_wings_import_what_the_table_allows(floor):
    assert wrong_files(on_floor(floor), lambda source, path: wrong_wings(source, home_of(path))) == {}


def unused_arrows(table, files):
    """The arrows of a floor's table that no file goes along; files as (module, source)."""
    allowed = {(wing, other) for wing, others in table.items() for other in others.split()}
    return allowed - {(wing_of(home)[1], there) for home, source in files for _, there in wings_imported(source, home)}


@pytest.mark.parametrize("floor", WINGS)
def test_the_table_allows_nothing_that_no_file_uses(floor):
    homes = [(home_of(path), (ROOT / path).read_text()) for path in on_floor(floor)]
    assert unused_arrows(WINGS[floor], [one for one in homes if wing_of(one[0]) is not None]) == set()


def test_an_arrow_that_no_file_uses_is_caught():
    files = [("bayesprune.models.costs.macs", "from bayesprune.models.units.cutting import cut")]
    assert unused_arrows({"units": "", "costs": "units"}, files) == set()
    assert unused_arrows({"units": "", "costs": "units checks"}, files) == {("costs", "checks")}


@pytest.mark.parametrize("floor", WINGS)
def test_wings_make_no_circle(floor):
    before = set()
    for wing, allowed in WINGS[floor].items():  # each wing imports wings that stand above it in the table
        assert set(allowed.split()) <= before, wing
        before.add(wing)


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("bayesprune.models.language.hierarchy", "from bayesprune.models.priors.ready import PRIORS", 1),
        ("bayesprune.models.language.hierarchy", "from bayesprune.models.language.levels import Level", 0),
        ("bayesprune.inference.guides.families", "def f():\n    from bayesprune.inference.training import fit", 1),
        ("bayesprune.inference.fit_result", "from bayesprune.inference.training.fit import fit", 1),
        ("bayesprune.inference.training.fit", "from bayesprune.inference.fit_result import Fit", 0),
        ("bayesprune.inference.new_wing.file", "import torch", 1),
        ("bayesprune.server.x", "import torch", 1),
        ("bayesprune.server", "import torch", 1),
        ("bayesprune.runs.run_folder", "from bayesprune.server import x", 1),
        ("bayesprune.runs.run_folder", "import bayesprune\nfrom bayesprune import HALO, __version__", 0),
        ("bayesprune.analysis.plots.gates", "from bayesprune.inference.training.fit import fit", 0),
        ("bayesprune.runs.run_folder", "from bayesprune.commands.fitting import fit", 1),
    ],
)
def test_a_wrong_wing_is_caught(module, source, count):
    assert len(wrong_wings(source, module)) == count


def file_imports():
    """(file, file) of every import between files of the package, those in functions and for type checkers too."""
    homes = {home_of(path) for path in CODE}
    for path in CODE:
        for _, name in imported_modules((ROOT / path).read_text()):
            found = name if name in homes else name.rpartition(".")[0]
            # The face knows every home, as strings and for type checkers; a name asked of it comes when it is used.
            if found in homes and {found, home_of(path)}.isdisjoint({"bayesprune"}):
                yield home_of(path), found


def circles(edges):
    """The sets of names that reach each other."""
    return [sorted(some) for some in nx.strongly_connected_components(nx.DiGraph(edges)) if len(some) > 1]


def test_files_make_no_circle():
    edges = [(one, other) for one, other in file_imports() if one != other]
    assert len(edges) > 500  # control: the imports were found
    assert circles(edges) == []
    assert circles([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]) == [["a", "b", "c"]]


def hidden_imports(source):
    """One line for each import of the package that is no statement of the module itself.

    In a function or a class, under a condition, for type checkers, by a call: it hides a circle, or has no reason.
    """
    on_top = {node.lineno for node in parsed(source).body if isinstance(node, ast.Import | ast.ImportFrom)}
    found = [(line, name) for line, name in imported_modules(source) if name.split(".")[0] == "bayesprune"]
    return [f"line {line}: {name}" for line, name in found if line not in on_top]


@pytest.mark.parametrize("floor", FLOORS[:FACE])
def test_imports_stand_at_the_top(floor):
    # The face imports late on purpose: its help and its lists do not wait for PyTorch.
    assert wrong_files(on_floor(floor), lambda source, path: hidden_imports(source)) == {}


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f():\n    if x:\n        from bayesprune.models.bayesian_network import A", 1),
        ("if TYPE_CHECKING:\n    from bayesprune.models.bayesian_network import A", 1),
        ("class A:\n    import bayesprune.models.bayesian_network as b", 1),
        ("try:\n    from bayesprune.models.bayesian_network import A\nexcept ImportError:\n    A = None", 1),
        ("A = import_module('bayesprune.models.bayesian_network').A", 1),
        ("import bayesprune\ndef f():\n    import torch\n    import_module('arviz')", 0),
        ("from bayesprune.models.bayesian_network import (\n    A,\n    B,\n)", 0),
    ],
)
def test_a_hidden_import_is_caught(source, count):
    assert len(hidden_imports(source)) == count


def private_imports(source):
    """One line for each private name that is imported from another file of the package."""
    wrong = []
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bayesprune":
            wrong += [f"line {node.lineno}: {one.name}" for one in node.names if re.match(r"_(?!_)", one.name)]
    return wrong


def test_no_file_of_the_package_imports_a_private_name_of_another():
    assert {str(path): wrong for path in CODE if (wrong := private_imports((ROOT / path).read_text()))} == {}
    assert private_imports("from bayesprune.models.files.places import _place") != []
    assert private_imports("from bayesprune import __version__\nfrom torch import _C") == []


# ------------------------------------------------------------------------------------- files and folders


def more_than_a_docstring(source):
    """What a file holds beside one docstring."""
    body = parsed(source).body
    if not body or ast.get_docstring(parsed(source)) is None:
        return ["no docstring"]
    return [f"line {node.lineno}: {type(node).__name__}" for node in body[1:]]


def test_floors_and_wings_begin_with_a_docstring_and_nothing_else():
    # A name that a folder gave would be a second home, and an import of the folder would reach all of its files.
    folders = [path for path in CODE if path.name == "__init__.py" and path.parts != ("bayesprune", "__init__.py")]
    assert len(folders) > 40  # control: they were found
    assert wrong_files(folders, lambda source, path: more_than_a_docstring(source)) == {}
    assert {path.parent for path in CODE} - {path.parent for path in folders} == {Path("bayesprune")}


@pytest.mark.parametrize("source", ["", "import torch", '"""Wing."""\nfrom bayesprune.models.priors.halo import HALO'])
def test_a_folder_that_begins_with_more_is_caught(source):
    assert more_than_a_docstring(source) != []
    assert more_than_a_docstring('"""Wing."""\n') == []


def too_long(source, longest):
    """The number of lines where it is above `longest`."""
    lines = len(source.splitlines())
    return [f"{lines} lines, expected at most {longest}"] if lines > longest else []


def test_no_file_is_too_long():
    others = [path for path in ALL if path not in CODE]
    assert wrong_files(CODE, lambda source, path: too_long(source, LONGEST_OF_THE_PACKAGE)) == {}
    assert wrong_files(others, lambda source, path: too_long(source, LONGEST)) == {}
    assert too_long("\n" * 451, 450) and not too_long("\n" * 450, 450)  # control


def too_full(files):
    """The folders that hold more than `MOST` of the files, with how many."""
    counts = Counter(path.parent for path in files)
    return {str(folder): number for folder, number in counts.items() if number > MOST}


def test_no_folder_is_too_full():
    assert too_full(CODE) == {}
    assert too_full([Path("models", "gates", f"{n}.py") for n in range(21)]) == {"models/gates": 21}  # control


def nameless(path):
    """The parts of a path that say nothing about what is in it."""
    return NAMELESS & set(Path(path).with_suffix("").parts)


def test_every_file_is_named_after_its_idea():
    assert [str(path) for path in ALL if nameless(path)] == []
    assert nameless("models/utils.py") and nameless("inference/helpers/gate.py")  # control


def test_the_walk_finds_the_code():
    # Control for every test above: a list of files that were empty would let everything through.
    for floor in FLOORS:
        assert Path(floor, "__init__.py") in CODE
    assert Path("tests", "test_structure.py") in ALL
