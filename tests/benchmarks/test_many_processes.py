"""The measurements of many processes: ratios within turns, bytes that were really sent, numbers that are held."""

from __future__ import annotations

import pytest

from benchmarks import many_bytes, many_processes
from benchmarks.many_processes import Place, Trial, compared, make_trial_case


def test_what_stays_behind_plain_ddp_is_taken_within_turns() -> None:
    # The machine slows down tenfold in the last turn: ratios do not notice.
    seconds = {
        "plain, 1": [2.0, 2.0, 20.0],
        "plain, 2": [1.0, 1.0, 10.0],
        "by hand, 1": [3.0, 3.0, 30.0],
        "by hand, 2": [2.0, 2.0, 20.0],
        "fit, 1": [3.0, 3.0, 30.0],
        "fit, 2": [2.2, 2.2, 22.0],
    }
    found = compared(seconds, 2)
    assert found["plain"]["speedup"] == 2.0 and "over_by_hand" not in found["plain"]
    assert found["fit"]["over_by_hand"] == pytest.approx(0.1)
    assert found["fit"]["behind_plain"] == pytest.approx(2.0 / (3.0 / 2.2) - 1.0)
    assert found["by hand"]["behind_plain"] == pytest.approx(1.0 / 3.0)
    assert found["fit"]["ms_shared"] == 2200.0


def test_processes_share_the_same_batches_without_gaps() -> None:
    case = make_trial_case(Trial("lenet-300-100", "halo", 7), 2)
    whole = [y for _, y in Place().batches(case.x, case.y, 7)]
    shares = [[y for _, y in Place(rank, 3).batches(case.x, case.y, 7)] for rank in range(3)]
    for number, batch in enumerate(whole):
        assert [int(value) for share in shares for value in share[number]] == batch.tolist()
    assert sorted(len(share[0]) for share in shares) == [2, 2, 3]


@pytest.mark.slow
def test_two_processes_send_what_a_ring_sends() -> None:
    trial = Trial("lenet-300-100", "halo", 8, blocks=1, pass_seconds=0.0)
    found = many_processes.measure(trial)
    assert set(found["seconds"]) == {f"{way}, {count}" for way in many_processes.WAYS for count in (1, 2)}
    assert all(min(seconds) > 0.0 for seconds in found["seconds"].values())
    learned = 266_200  # weights under the prior, each with its scale; 410 biases are points
    assert found["expected"] == {
        "plain": 4 * 266_610,
        "by hand": 4 * (2 * learned + 410),
        "fit": 4 * (2 * learned + 410),
    }
    for way in many_processes.WAYS:
        assert 1.0 <= found["moved"][way] / found["expected"][way] < 1.5  # others send too
    assert "halo" in many_processes.show("halo", trial, found)


@pytest.mark.parametrize("name", many_bytes.GUIDES)
def test_the_state_of_a_fit_is_what_the_table_says(name: str) -> None:
    found = many_bytes.fit_once(100_000, many_bytes.GUIDES[name], 4, None)
    assert found["state"] / found["weights"] == pytest.approx(
        many_bytes.expected_state(many_bytes.GUIDES[name]), rel=0.01
    )


def test_the_estimate_counts_a_ring_of_eight() -> None:
    text = many_bytes.estimate({"Normal, mean-field": 60.0})
    line = next(line for line in text.splitlines() if line.startswith("Normal"))
    assert line.split()[2:5] == ["52", "14.0", "0.031s"]
    sizes = [{"weights": 10.0, "training": 700.0}, {"weights": 30.0, "training": 1900.0}]
    assert many_bytes.slope(sizes, "training") == 60.0
