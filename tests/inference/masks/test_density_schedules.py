"""Densities while training against their formulas, and the updates at which they are met."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bayesprune.inference.masks.density_schedules import ConstantDensity, CubicDensity, CyclicDensity, DensitySchedule
from bayesprune.inference.masks.update_plan import interval, planned_updates
from tests.oracles.sparse_training import cubic


@pytest.mark.parametrize("shape", ["cosine", "triangular"])
@pytest.mark.parametrize(("count", "longer"), [(1, 1.0), (2, 1.0), (2, 2.0), (3, 0.5)])
def test_cycles_are_those_of_the_formula(shape, count, longer):
    """The cycle of a step by counting steps off, as the code of the paper does."""
    schedule, steps, final = CyclicDensity(count, 3.0, 0.4, shape, longer), 7000, 0.002
    lengths = [longer**number for number in range(count)]
    lengths = [length / sum(lengths) * 0.4 * steps for length in lengths]
    for step in range(0, steps + 1, 7):
        at, wanted = float(step), final
        for length in lengths:
            if at < length - 1e-9:
                r = at / length
                up = 0.5 * (1.0 - math.cos(2.0 * math.pi * r)) if shape == "cosine" else 2 * min(r, 1.0 - r)
                wanted = final + (3.0 * final - final) * up
                break
            at -= length
        assert schedule.at(step / steps, final) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("shape", ["cosine", "triangular"])
@pytest.mark.parametrize(("count", "longer"), [(2, 1.0), (3, 2.0), (2, 0.7)])
def test_a_cycle_begins_and_ends_sparse_and_is_densest_in_its_middle(shape, count, longer):
    schedule = CyclicDensity(count, 3.0, 0.4, shape, longer)
    marks = schedule.marks
    assert len(marks) == 2 * count and list(marks) == sorted(marks) and marks[-1] == 0.4 == schedule.settles
    assert schedule.at(0.0, 0.01) == 0.01
    for middle, end in zip(marks[::2], marks[1::2], strict=True):
        assert schedule.at(middle, 0.01) == pytest.approx(0.03, rel=1e-12)
        assert schedule.at(end, 0.01) == pytest.approx(0.01, rel=1e-12)
        assert schedule.at(middle + 1e-3, 0.01) < 0.03 - 1e-7  # control
    assert all(schedule.at(share, 0.01) == 0.01 for share in np.linspace(0.4, 1.0, 50))
    assert schedule.at(marks[0], 0.6) == 1.0  # at most all


def test_what_is_thinned_follows_the_cubic():
    schedule = CubicDensity(0.5, 0.0, 0.5)
    for step in range(0, 1001, 10):
        assert schedule.at(step / 1000, 0.05) == pytest.approx(cubic(step, 1000, 0.5, 0.05, 0.5), rel=1e-12)
    late = CubicDensity(1.0, 0.2, 0.6)
    assert late.at(0.2, 0.1) == 1.0 and late.at(0.6, 0.1) == 0.1 == late.at(1.0, 0.1)
    assert late.at(0.4, 0.1) == pytest.approx(0.1 + 0.9 / 8)
    assert CubicDensity(0.05).at(0.1, 0.2) == 0.2  # a final density above the start is kept throughout
    assert [one.rises for one in (ConstantDensity(), CubicDensity(), CyclicDensity(), CyclicDensity(top=1.0))] == [
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("steps", [37, 200, 4001])
@pytest.mark.parametrize(
    "schedule",
    [CyclicDensity(), CyclicDensity(3, 2.0, 0.7, longer=1.5), CubicDensity(1.0, 0.0, 0.5), CubicDensity(ends=1.0)],
)
@pytest.mark.parametrize("every", [1, 10, 1000, 0.03])
def test_turns_and_ends_are_updates_whatever_the_interval_is(steps, schedule, every):
    plan = planned_updates(schedule, steps, every, None, 0.75)
    assert list(plan) == sorted(plan) and min(plan) >= 1 and max(plan) <= steps
    assert set(schedule.marks) <= set(plan.values())
    for step, share in plan.items():
        assert abs(share - step / steps) <= 0.5 / steps + 1e-12
        assert share in schedule.marks or share == step / steps
    settled = round(schedule.settles * steps)
    assert schedule.at(plan[settled], 0.01) == 0.01
    assert all(step < steps and step <= 0.75 * steps for step in plan if step > settled)
    assert sum(step <= settled for step in plan) >= min(5, settled // 4)


def test_masks_that_stay_have_no_updates_and_others_have_theirs():
    assert planned_updates(ConstantDensity(), 1000, 100, None, 0.0) == {}
    assert list(planned_updates(ConstantDensity(), 1000, 100, None, 0.75)) == [100, 200, 300, 400, 500, 600, 700]
    assert (
        list(planned_updates(ConstantDensity(), 1000, 100, None, 1.0))[-1] == 900
    )  # nothing is trained after the last step
    assert list(planned_updates(ConstantDensity(), 1000, 4000, None, 1.0)) == [125 * n for n in range(1, 8)]
    assert list(planned_updates(CubicDensity(ends=0.5), 1000, 100, 50, 0.8)) == [*range(50, 501, 50), 600, 700, 800]
    assert list(planned_updates(CyclicDensity(), 200, 10, None, 0.0)) == list(range(5, 81, 5))  # an eighth of a cycle
    assert (interval(0.02, 500, 1.0), interval(100, 400, 0.5), interval(3, 5, 1.0)) == (10, 25, 1)


def test_cycles_that_no_step_can_follow_are_refused():
    with pytest.raises(
        ValueError, match=r"cannot follow CyclicDensity\(count=4.* in 12 steps: two of its turns fall on step"
    ):
        planned_updates(CyclicDensity(4), 12, 1)
    assert len(planned_updates(CyclicDensity(4), 40, 1, until=0.0)) == 16


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: CyclicDensity(ends=1.2),
            r"share of the fit that the cycles take, in \(0, 1\], not 1.2: cycles cannot be longer",
        ),
        (lambda: CyclicDensity(0), "whole number of cycles, from 1 to 1000, not 0"),
        (lambda: CyclicDensity(True), "setting count of CyclicDensity takes a whole number, not True"),
        (lambda: CyclicDensity(2.5), "setting count of CyclicDensity takes a whole number, not 2.5"),
        (lambda: CyclicDensity(top=0.5), "top >= 1 and longer > 0, not 0.5"),
        (lambda: CyclicDensity(top=math.nan), "setting top of CyclicDensity takes a number, not nan"),
        (lambda: CyclicDensity(900, longer=2.0), "more than 1e13 times the shortest"),
        (lambda: CyclicDensity(shape="sine"), "takes cosine or triangular, not 'sine'"),
        (lambda: CubicDensity(0.0), r"density start in \(0, 1\]"),
        (lambda: CubicDensity(ends="half"), "setting ends of CubicDensity takes a number, not 'half'"),
        (lambda: CubicDensity(begins=0.5, ends=0.5), "begins < ends"),
    ],
)
def test_schedules_that_make_no_sense_are_refused_in_a_sentence(make, said):
    with pytest.raises(ValueError, match=said) as told:
        make()
    assert "\n" not in str(told.value)


def test_numbers_may_be_those_of_numpy():
    assert CyclicDensity(np.int64(3), np.float32(2.0)) == CyclicDensity(3, 2.0)
    assert type(CyclicDensity(np.int64(3)).count) is int
    assert isinstance(ConstantDensity(), DensitySchedule) and ConstantDensity().marks == ()
