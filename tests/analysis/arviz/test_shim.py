"""The shim gives the modular ArviZ on either Python, or says what is missing."""

from __future__ import annotations

import importlib
import types

import numpy as np
import pytest
import xarray as xr

from bayesprune.analysis.arviz import shim


@pytest.fixture
def fresh():
    shim.arviz.cache_clear()
    yield
    shim.arviz.cache_clear()


def pretend(monkeypatch, modules):
    """Has the shim find these modules and no others."""

    def find(name):
        if name not in modules:
            raise ImportError(f"No module named {name!r}")
        return modules[name]

    monkeypatch.setattr(shim, "import_module", find)


def test_the_namespace_takes_groups():
    tree = shim.arviz().from_dict({"posterior": {"w": np.zeros((5, 2))}}, sample_dims=["sample"])
    assert tree["posterior"]["w"].dims[0] == "sample"
    assert tree["posterior"]["w"].shape == (5, 2)


@pytest.mark.parametrize(("version", "modular"), [("0.23.4", False), ("1.0.0", True), ("1.3.0", True), ("12.1", True)])
def test_the_version_says_where_the_functions_are(version, modular):
    assert shim.is_modular(version) is modular


def full(version):
    return types.SimpleNamespace(__version__=version, **dict.fromkeys(shim.NEEDED))


def test_arviz_1_is_taken_itself_and_0_23_by_its_preview(fresh, monkeypatch):
    new, old, preview = full("1.3.0"), full("0.23.4"), full("0.23.4")
    pretend(monkeypatch, {"arviz": new})
    assert shim.arviz() is new
    shim.arviz.cache_clear()
    pretend(monkeypatch, {"arviz": old, "arviz.preview": preview})
    assert shim.arviz() is preview


@pytest.mark.parametrize(
    "modules", [{}, {"arviz": full("0.17.0")}, {"arviz": types.SimpleNamespace(__version__="1.0")}]
)
def test_an_arviz_without_the_functions_is_refused_with_the_remedy(fresh, monkeypatch, modules):
    pretend(monkeypatch, modules)
    with pytest.raises(ImportError, match=r"install bayesprune with its dependencies \(arviz>=1 on Python 3.12\+"):
        shim.arviz()


def test_the_shim_finds_the_installed_one(fresh):
    installed = importlib.import_module("arviz")
    modular = shim.is_modular(installed.__version__)
    assert shim.arviz() is (installed if modular else importlib.import_module("arviz.preview"))


def test_the_top_level_gets_what_it_takes(fresh, monkeypatch):
    tree = shim.arviz().from_dict({"posterior": {"w": np.zeros((1, 5))}}, attrs={"/": {"said": "so"}})
    tree["own"] = xr.DataTree(xr.Dataset({"v": ("along", np.arange(3.0))}))
    found = shim.for_top_level(tree)
    installed = importlib.import_module("arviz")
    if shim.is_modular(installed.__version__):
        assert found is tree
    else:
        assert isinstance(found, installed.InferenceData)
        assert found.attrs == {"said": "so"} and found["own"]["v"].shape == (3,)
        np.testing.assert_array_equal(found["posterior"]["w"], tree["posterior"]["w"])
    shim.arviz.cache_clear()
    pretend(monkeypatch, {"arviz": full("1.3.0")})
    assert shim.for_top_level(tree) is tree
