"""Reber grammars: strings against a regular expression, the published statistics, and what n letters in a row tell."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch

from bayesprune.data.reber import NEGATIVES, accepts, letters_of, n_gram_leakage, reber_strings, tokens_of
from bayesprune.data.sets import load_data

# The automaton as an expression, by hand: state 3 leads over T* V to 5, which ends by VE or goes over P to 4, and that
# ends by SE or goes over X to 3.
_FROM_3 = "(?:T*VPX)*T*V(?:VE|PSE)"
PLAIN = re.compile(f"B(?:TS*X(?:SE|X{_FROM_3})|P{_FROM_3})")
EMBEDDED = re.compile(f"B(?:T{PLAIN.pattern}T|P{PLAIN.pattern}P)E")


def is_valid(string, embedded=False):
    return (EMBEDDED if embedded else PLAIN).fullmatch(string) is not None


@pytest.fixture(scope="module")
def published():
    return reber_strings(25_000, seed=0)


# -- the grammar ------------------------------------------------------------------------------------------------------


def test_the_automaton_accepts_what_the_expression_does():
    for length in range(1, 8):
        for letters in itertools.product("BEPSTVX", repeat=length):
            assert accepts("".join(letters)) == is_valid("".join(letters))
    assert accepts("BTSSXXTVVE") and not accepts("BTSSXXTVV") and not accepts("BTSSXXTVVEE") and not accepts("")
    assert accepts("BTBPVVETE", embedded=True) and not accepts("BTBPVVEPE", embedded=True)
    assert not accepts("BTBPVVETE") and not accepts("BPVVE", embedded=True) and not accepts("BTTE", embedded=True)


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("matched", [False, True])
def test_all_valid_strings_are_of_the_grammar_and_no_invalid_one_is(embedded, matched):
    drawn = reber_strings(1500, embedded, negatives=NEGATIVES if embedded else None, length_matched=matched, seed=3)
    assert all(is_valid(string, embedded) == label for string, label in zip(drawn.strings, drawn.labels, strict=True))
    assert set(drawn.kinds) == {"valid", *(NEGATIVES if embedded else NEGATIVES[:-1])}
    assert sum(drawn.labels) == 750 and len(set(drawn.strings)) == 1500
    assert all(string[0] == "B" and string[-1] == "E" and len(string) >= 11 for string in drawn.strings)


def test_each_kind_of_invalid_string_is_what_it_says():
    drawn = reber_strings(800, seed=1)
    of = {kind: [s for s, k in zip(drawn.strings, drawn.kinds, strict=True) if k == kind] for kind in NEGATIVES[:-1]}
    legal = set("BEPSTVX")
    assert all(set(string) - legal for string in of["foreign"])
    assert not any(set(string) - legal for kind in NEGATIVES[1:-1] for string in of[kind])
    for string in of["swapped-first"]:
        assert is_valid("B" + {"T": "P", "P": "T"}[string[1]] + string[2:])
    for string in of["substituted"]:
        near = (string[:at] + letter + string[at + 1 :] for at in range(len(string)) for letter in legal)
        assert any(is_valid(other) for other in near)
    embedded = reber_strings(200, embedded=True, seed=1)
    for string, kind in zip(embedded.strings, embedded.kinds, strict=True):
        assert is_valid(string[2:-2]) and (string[1] == string[-2]) == (kind == "valid")


# -- the published statistics -----------------------------------------------------------------------------------------


def test_unique_strings_are_as_long_and_begin_and_end_as_published(published):
    """12,500 unique strings from 11 letters up: mean length 23.64 to 23.68, T first in 7,427, VE last in 7,453."""
    valid = [string for string, label in zip(published.strings, published.labels, strict=True) if label]
    lengths = np.array([len(string) for string in valid])
    assert len(valid) == 12_500 and lengths.min() == 11 and lengths.max() > 45
    assert lengths.mean() == pytest.approx(23.68, abs=0.12)
    assert sum(string[1] == "T" for string in valid) == pytest.approx(7428, abs=120)
    assert sum(string.endswith("VE") for string in valid) == pytest.approx(7473, abs=150)


def test_strings_that_may_come_twice_follow_the_coin():
    """Without a least length or uniqueness the mean length is 8, and the first letter is a fair coin."""
    drawn = reber_strings(20_000, min_length=1, unique=False, seed=2)
    valid = [string for string, label in zip(drawn.strings, drawn.labels, strict=True) if label]
    assert np.mean([len(string) for string in valid]) == pytest.approx(8.0, abs=0.12)
    assert np.mean([string[1] == "T" for string in valid]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([string == "BTXSE" for string in valid]) == pytest.approx(1 / 8, abs=0.015)


def test_a_seed_draws_the_same_strings_again():
    assert reber_strings(50, seed=4) == reber_strings(50, seed=4)
    assert reber_strings(50, seed=4) != reber_strings(50, seed=5)


# -- leakage ----------------------------------------------------------------------------------------------------------


def test_three_letters_in_a_row_tell_plain_strings_and_no_number_tells_embedded_ones(published):
    plain = n_gram_leakage(published[:18_750], published[18_750:])
    assert plain.n_grams[3] == plain.n_grams[4] == 1.0 and 0.8 < plain.n_grams[2] < 0.95
    assert plain.n_grams[1] < plain.n_grams[2] and abs(plain.length - 0.5) < 0.03
    embedded = reber_strings(6000, embedded=True, seed=1)
    found = n_gram_leakage(embedded[:4000], embedded[4000:])
    assert all(abs(share - 0.5) < 0.03 for share in (*found.n_grams.values(), found.length))
    assert "legal 3-grams" in str(found)


def test_without_matched_lengths_the_length_alone_tells_much():
    drawn = reber_strings(4000, length_matched=False, seed=0)
    assert n_gram_leakage(drawn[:3000], drawn[3000:]).length > 0.75


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_are_codes_of_letters_and_zeros_after_the_end():
    tokens = tokens_of(["BTXSE", "BE"], 6)
    assert tokens.tolist() == [[66, 84, 88, 83, 69, 0], [66, 69, 0, 0, 0, 0]]
    assert letters_of(tokens) == ("BTXSE", "BE")
    with pytest.raises(ValueError, match="a string has 5 letters, but there are 4 steps"):
        tokens_of(["BTXSE"], 4)


@pytest.mark.parametrize("name", ["reber", "embedded-reber"])
def test_the_sets_by_name_are_tokens_with_a_test_set_of_their_own(name):
    splits = load_data(name, seed=1)
    assert [len(y) for _, y in (splits.train, splits.validation, splits.test)] == [3600, 400, 1000]
    assert splits.classes == 2 and splits.class_names == ("invalid", "valid")
    for x, y in (splits.train, splits.validation, splits.test):
        assert x.dtype == y.dtype == torch.int64 and x.shape[1:] == splits.input_shape
        assert float(y.double().mean()) == pytest.approx(0.5, abs=0.01)
        strings = letters_of(x.numpy())
        assert [is_valid(string, name != "reber") for string in strings] == y.bool().tolist()
    assert bool((splits.mean == 0).all()) and bool((splits.sd == 1).all())
    assert torch.equal(load_data(name, seed=2).test[0], splits.test[0])


def test_what_cannot_be_drawn_is_refused():
    for call, said in (
        (lambda: reber_strings(1), "n is 1, but 2 strings at least"),
        (lambda: reber_strings(10, negatives=("wrong",)), r"negatives=\('wrong',\) are no kinds"),
        (lambda: reber_strings(10, negatives=("mismatched-ends",)), "of the plain grammar"),
        (lambda: reber_strings(10, negatives="foreign"), "in a tuple"),
        (lambda: reber_strings(10, negatives=()), "are no kinds"),
        (lambda: reber_strings(10, max_length=8), "max_length is 8, but strings have at least 11"),
        (lambda: reber_strings(11, min_length=1, max_length=6), "the grammar has 5 strings of these lengths, but 6"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)
