"""Imports every module of the installed bayesprune and compares them with a checkout.

    python import_every_module.py CHECKOUT

Run it by the Python of an environment that bayesprune is installed in, from a folder outside the checkout.
It fails where the package does not come from that environment, where a module of the checkout was left out,
where something besides `bayesprune` was installed, or where a module or public name does not import.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
from importlib.metadata import files
from pathlib import Path


def module_names(package: Path) -> set[str]:
    """The dotted names of all modules below a package folder; symbolic links to folders are followed."""
    names: set[str] = set()
    folders = [package]
    while folders:
        folder = folders.pop()
        for entry in folder.iterdir():
            if entry.is_dir() and entry.name != "__pycache__":
                folders.append(entry)
            elif entry.suffix == ".py":
                parts = entry.relative_to(package.parent).with_suffix("").parts
                names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def main(checkout: Path) -> None:
    """Fails with one sentence at the first thing that is wrong."""
    site = Path(sysconfig.get_path("purelib")).resolve()
    package = importlib.import_module("bayesprune")
    where = Path(str(package.__file__)).resolve().parent
    if where != site / "bayesprune":
        sys.exit(f"bayesprune was imported from {where}, expected {site / 'bayesprune'}")

    tops = {path.parts[0] for path in files("bayesprune") or ()}
    strange = {top for top in tops if not top.startswith(("bayesprune", ".."))}  # "..": bin/
    if strange:
        sys.exit(f"the wheel installs {sorted(strange)} beside bayesprune, expected bayesprune alone")

    there, here = module_names(checkout / "bayesprune"), module_names(where)
    for floor in ("models", "inference", "analysis"):
        if f"bayesprune.{floor}" not in here:
            sys.exit(f"bayesprune.{floor} was not installed")
    if there != here:
        sys.exit(f"not installed: {sorted(there - here)}; not in the checkout: {sorted(here - there)}")
    if not (where / "py.typed").is_file():
        sys.exit("py.typed was not installed, so type checkers would not read the annotations")

    for name in sorted(here):
        module = importlib.import_module(name)
        if not Path(str(module.__file__)).resolve().is_relative_to(where):
            sys.exit(f"{name} was imported from {module.__file__}, expected a place below {where}")
    for name in package.__all__:
        getattr(package, name)
    print(f"{len(here)} modules and {len(package.__all__)} public names of {where} import")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: import_every_module.py CHECKOUT")
    main(Path(sys.argv[1]).resolve())
