"""What every test starts from: a seed, an empty parameter store, one thread, and no window for plots."""

from __future__ import annotations

import gc
import os
import sys

os.environ["MPLBACKEND"] = "Agg"  # also for the processes that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")  # so that two processes of tests do not wait for each other's threads

import matplotlib
import pyro
import pytest
import torch

matplotlib.use("Agg")


def forget_seeds_of_absent_devices():
    """Seeds of devices that are not there are not noted: PyTorch would keep each with its stack, a millisecond a seed.

    It does so for the day on which the device starts. The numbers of the CPU are the same.
    """
    for device, noting in ((torch.cuda, torch.cuda.random), (torch.xpu, torch.xpu.random), (torch.mtia, torch.mtia)):
        if hasattr(noting, "_lazy_call") and not device.is_available():
            noting._lazy_call = lambda *_, **__: None


forget_seeds_of_absent_devices()


def pytest_collection_finish():
    """What stands now stays until the end: the garbage collector does not walk through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Skips the tests marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def clean_slate():
    """The same random numbers and no parameters left over, whatever ran before; defaults are put back."""
    dtype = torch.get_default_dtype()
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)  # torch, NumPy and random
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
    torch.set_default_dtype(dtype)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
