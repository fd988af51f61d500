"""What sparse training does not go with is refused in a sentence, before anything is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.masks.density_schedules import CubicDensity, CyclicDensity
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.models.costs.layer_budgets import LayerBudget
from tests.inference.masks.watched_training import SIZE, X, Y, fitted, model
from tests.oracles.gated_networks import PERCEPTRON


class Trained(bp.Callback):
    """Says that a step was taken."""

    def on_step(self, state):
        raise AssertionError("it was trained")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ({"density": 0.1, "drop": "size"}, "drop=...\\) takes one of magnitude.*, not 'size'"),
        ({"density": 0.1, "grow": "luck"}, "grow=...\\) takes one of .* or None, not 'luck'"),
        ({"density": 0.1, "schedule": 0.5}, "setting schedule of DynamicMasks takes a DensitySchedule, not 0.5"),
        ({"density": 0.1, "across": "block"}, "takes 'layer', 'network' or 'distribution', not 'block'"),
        ({"density": 0.1, "share": 1.0}, "0 <= last_share <= share < 1"),
        ({"density": 0.1, "share": 0.1, "last_share": 0.2}, "0 <= last_share <= share < 1"),
        ({"density": 0.1, "until": 0.0}, "until in \\(0, 1\\]"),
        ({"density": 0.1, "every": 0}, "number of steps or a share of the fit, not 0"),
        ({"density": 0.1, "every": 2.5}, "number of steps or a share of the fit, not 2.5"),
        ({"density": 0.1, "every": True}, "setting every of DynamicMasks takes a whole number or a number, not True"),
        ({"density": 0.1, "within": -3}, "number of steps or a share of the fit, not -3"),
        ({"density": 0.1, "batches": 0}, "batches >= 1"),
        ({"density": 0.1, "temperature": -1.0}, "temperature >= 0"),
        ({"density": 0.1, "temperature": float("nan")}, "setting temperature of DynamicMasks takes a number, not nan"),
        ({"density": "a tenth"}, "setting density of DynamicMasks takes"),
        ({"density": 0.1, "grow": None}, "lets no weight come: give share=0"),
        (
            {"density": 0.1, "grow": None, "share": 0.0, "schedule": CyclicDensity()},
            "lets no weight come: give share=0",
        ),
        ({"density": 0.1, "schedule": CyclicDensity(), "until": 0.3}, "exchanged from the share 0.4 .*, but until=0.3"),
        (
            {"density": 0.1, "schedule": CyclicDensity(ends=1.0), "until": 1.0},
            "share 1 .*: give share=0, or earlier ends",
        ),
    ],
)
def test_rules_that_make_no_sense(make, said):
    with pytest.raises(ValueError, match=said) as told:
        DynamicMasks(**make)
    assert "\n" not in str(told.value)


def test_a_density_that_only_falls_needs_no_growth():
    DynamicMasks(0.1, grow=None, share=0.0, schedule=CubicDensity())
    DynamicMasks(0.1, grow=None, share=0.0, schedule=CyclicDensity(top=1.0))


def test_numbers_may_be_those_of_numpy_and_torch():
    made = DynamicMasks(np.float64(0.1), every=np.int64(7), share=torch.tensor(0.25), batches=np.int32(2))
    assert made == DynamicMasks(0.1, every=7, share=0.25, batches=2) and type(made.every) is int


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ({"density": 2}, "2 weights do not go into 3 tensors of 268 weights, of which each keeps one"),
        ({"density": 0.005}, "1 weights do not go into 3 tensors of 268 weights"),
        ({"density": 1.5}, "density of masks is a share in \\(0, 1\\] or a whole number"),
        ({"density": 0.0}, "density of masks is a share in \\(0, 1\\] or a whole number"),
        ({"density": 269}, "269 weights do not go into 3 tensors of 268 weights"),
        ({}, "the layout 'erk' needs a density"),
        ({"density": 0.1, "layout": "flat"}, "layout 'flat' is unknown: expected erk, uniform or a LayerBudget"),
        ({"layout": {"fc1.weight": 0.1}}, "budget names 'fc1.weight', which matches no tensor"),
        (
            {"layout": LayerBudget.uniform({"0.weight": (14, 8), "2.weight": (10, 14)}, 0.1)},
            "budget is of another network: 0.weight has 98 weights, and 112 in the budget",
        ),
        ({"density": 0.1, "layout": {"0.weight": 0.1}}, "says itself how dense the layers are: leave density= out"),
        (
            {"density": 0.1, "schedule": CyclicDensity(9)},
            "cannot follow Cyclic.* in 40 steps: two of its turns fall on step",
        ),
    ],
)
def test_what_does_not_go_into_the_network_or_the_fit(make, said):
    with pytest.raises(ValueError, match=said) as told:
        fitted(DynamicMasks(**make), steps=40, callbacks=[Trained()])
    assert "\n" not in str(told.value)


def test_a_model_without_matrices_under_a_prior():
    torch.manual_seed(0)
    bnn = bp.BayesianNetwork(nn.Linear(7, 3).double(), {"bias": bp.Gaussian()}, None, SIZE)
    with pytest.raises(ValueError, match="masks are of weights with a prior, of two dimensions or more"):
        fitted(DynamicMasks(0.1), given=bnn, steps=8, callbacks=[Trained()])


def test_masks_twice():
    with pytest.raises(ValueError, match="rules= has two rules called 'masks'"):
        bp.fit(model(), (X, Y), steps=8, rules=[DynamicMasks(0.1), DynamicMasks(0.2)])
    sparse = fitted(DynamicMasks(0.2), steps=8)
    with pytest.raises(ValueError, match=r"the model has masks already, .*declare the model anew \(start=fit goes on"):
        fitted(DynamicMasks(0.2), given=sparse.model, steps=8, callbacks=[Trained()])


def test_loops_of_ones_own():
    objective = bp.objective(model(), "map")
    with pytest.raises(ValueError, match="DynamicMasks is for fit alone, which knows its steps"):
        bp.Record(objective, rules=[DynamicMasks(0.1)])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gates_of_units_go_with_masks_where_units_stay():
    x, y = PERCEPTRON.inputs(50), torch.arange(50) % 2
    how = {"steps": 24, "precision": "float64", "batch_size": 10}
    with pytest.raises(
        ValueError, match=r"masks between weights and network cannot follow units that leave: .*remove=None"
    ):
        bp.fit(PERCEPTRON.model(), (x, y), rules=[DynamicMasks(0.5, every=2)], callbacks=[Trained()], **how)
    rules = [DynamicMasks(0.5, every=2), bp.Gating(remove=None, step=1e-3)]
    fit = bp.fit(PERCEPTRON.model(), (x, y), rules=rules, **how)
    report = fit.settings["masks"][0]
    assert report["reached_count"] == report["asked_count"] and report["exchanged"] > 0
