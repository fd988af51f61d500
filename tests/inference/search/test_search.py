"""Search: ageing, no duplicates, an interrupted search that goes on as it would have, failures, several processes."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import bayesprune as bp
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.search.history import SEARCH_FILE, found_genome
from bayesprune.inference.search.search import search
from bayesprune.inference.search.searched import Searched
from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.search_space import SearchSpace
from tests.inference.search.conftest import Landscape, Linear

DATA = (torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))
HOW = {"trainings": 24, "population": 8}


def told(found):
    """All of a search but how long it took."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found.rows()]


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_no_two_trainings_are_of_the_same_network_and_scores_are_those_of_the_training(space, landscape, strategy):
    found = search(None, space, train=landscape, strategy=strategy, **HOW)
    assert len({row.hash for row in found.trainings}) == len(found.trainings) == 24
    assert all(space.allows(row.genome) and row.score == landscape.score(row.genome) for row in found.trainings)
    best = np.maximum.accumulate([row.score for row in found.trainings])
    assert found.best_so_far == tuple(best.tolist()) and found.best.score == best[-1]
    assert found.network().config["genome"] == found.genome.as_dict()
    if strategy == "random":
        assert all(row.operator == "random" and row.parents == () for row in found.trainings)


def test_parents_are_among_the_last_of_the_population_and_the_oldest_leave(space, landscape):
    found = search(None, space, train=landscape, tournament=8, crossover=0.0, **HOW)
    for row in found.trainings[8:]:
        last = found.trainings[row.number - 8 : row.number]
        # A tournament of all of them: its winner is the best of the last eight, however good older ones were.
        assert row.parents == (max(last, key=lambda one: one.score).number,)
    # The best of all leaves too: where each training is worse than the one before, the parent is always the oldest.
    found = search(None, space, train=lambda network, seed: -float(seed), tournament=8, crossover=0.0, **HOW)
    assert [row.parents for row in found.trainings[8:]] == [(number - 8,) for number in range(8, 24)]


def test_all_strategies_begin_with_the_same_genomes(space, landscape, linear):
    ways = ({"strategy": "random"}, {}, {"surrogate": linear})
    begun = [[row.hash for row in search(None, space, train=landscape, **HOW, **way).trainings[:8]] for way in ways]
    assert begun[0] == begun[1] == begun[2]
    other = search(None, space, train=landscape, seed=1, **HOW)
    assert [row.hash for row in other.trainings[:8]] != begun[0]


class Stop(Exception):
    """What ends a search in a test."""


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("way", ["evolution", "random", "linear", "forest"])
def test_an_interrupted_search_goes_on_as_it_would_have(space, landscape, tmp_path, way, batch):
    surrogate = {"linear": Linear, "forest": bp.PerformancePredictor}.get(way, lambda: None)
    how = {**HOW, "train": landscape, "batch": batch, "strategy": "random" if way == "random" else "evolution"}
    whole = search(None, space, surrogate=surrogate(), **how)
    for number in (9,) if way == "forest" else (0, 9, 10, 22):

        def stop(training, number=number):
            if training.number == number:
                raise Stop

        place = tmp_path / str(number)
        with pytest.raises(Stop):
            search(None, space, surrogate=surrogate(), folder=place, callback=stop, **how)
        assert len(Searched.load(place).trainings) == number + 1
        rest = []
        found = search(None, space, surrogate=surrogate(), folder=place, callback=rest.append, **how)
        assert told(found) == told(whole) == told(Searched.load(place))
        assert [row.number for row in rest] == list(range(number + 1, 24))
    # Further trainings go on too, and are those of a longer search from the start.
    longer = {**how, "trainings": 29}
    assert told(search(None, space, surrogate=surrogate(), folder=place, **longer)) == told(
        search(None, space, surrogate=surrogate(), **longer)
    )
    assert told(whole) != told(search(None, space, surrogate=surrogate(), **{**how, "seed": 3}))  # control


def test_a_surrogate_that_predicts_otherwise_than_then_is_noticed(space, landscape, tmp_path):
    how = {**HOW, "train": landscape, "batch": 4, "folder": tmp_path / "search"}

    def stop(training):
        if training.number == 9:
            raise Stop

    class Moody(Linear):
        turn = 1

        def predict(self, features):
            mean, sd = super().predict(features)
            return self.turn * mean, sd

    moody = Moody()
    with pytest.raises(Stop):
        search(None, space, surrogate=moody, callback=stop, **how)
    moody.turn = -1
    with pytest.raises(ValueError, match="another genome as training 8 than is proposed now"):
        search(None, space, surrogate=moody, **how)


def test_predictions_and_their_rank_correlation_are_kept(space, landscape, linear):
    found = search(None, space, train=landscape, surrogate=linear, surrogate_after=10, batch=2, **HOW)
    assert all(row.predicted is None for row in found.trainings[:10])
    later = found.trainings[10:]
    assert all(row.predicted is not None and row.predicted_sd > 0 for row in later)
    assert [row.rank_correlation for row in later[:4]] == [None] * 4  # of two predictions there is none
    known = later[:6]
    order = [np.argsort(np.argsort([getattr(row, name) for row in known])) for name in ("predicted", "score")]
    assert later[6].rank_correlation == later[7].rank_correlation == pytest.approx(np.corrcoef(*order)[0, 1])
    assert "rank correlation" in str(found)


@pytest.mark.parametrize(
    "failure", [lambda: math.nan, lambda: -math.inf, lambda: (_ for _ in ()).throw(NonFiniteLossError("NaN in step 3"))]
)
def test_a_training_that_is_not_finite_is_kept_as_failed(space, landscape, linear, tmp_path, failure):
    def train(network, seed):
        return failure() if "max-pool" in network.genome.operations else landscape(network, seed)

    found = search(None, space, train=train, surrogate=linear, folder=tmp_path / "search", **HOW)
    failed = [row for row in found.trainings if row.score is None]
    assert failed and all("max-pool" in row.genome.operations and row.problem for row in failed)
    assert (
        len(failed) < 24 and "of them failed" in str(found) and told(Searched.load(tmp_path / "search")) == told(found)
    )


def test_where_all_fail_it_is_said(space, tmp_path):
    found = search(None, space, train=lambda network, seed: math.nan, folder=tmp_path / "search", **HOW)
    assert found.best_so_far == (None,) * 24
    with pytest.raises(ValueError, match="all trainings of the search have failed"):
        found.genome  # noqa: B018
    with pytest.raises(ValueError, match="no training of the search in .* has a score"):
        found_genome(tmp_path / "search")


def test_a_small_space_is_searched_to_its_end():
    space = SearchSpace((4,), 2, ("linear",), widths=(8, 16), most_vertices=1, most_edges=2)
    found = search(None, space, train=lambda network, seed: 1.0, trainings=20, population=2)
    assert len(found.trainings) == 2 and "has no other genomes" in found.notes[0]


@pytest.fixture(scope="module")
def digits():
    data = bp.load_data("digits", validation_fraction=0.3)
    return (data.train[0][:200], data.train[1][:200]), (data.validation[0][:100], data.validation[1][:100])


@pytest.mark.slow
def test_several_processes_train_what_one_does(digits, tmp_path):
    data, validation = digits
    space = SearchSpace((1, 8, 8), 10, most_vertices=4, widths=(4, 8))
    how = {"validation": validation, "trainings": 10, "population": 4, "epochs": 2, "batch": 2, "batch_size": 50}
    threads = torch.get_num_threads()
    alone = search(data, space, surrogate=bp.PerformancePredictor(), folder=tmp_path / "one", **how)
    assert torch.get_num_threads() == threads
    found = search(data, space, surrogate=bp.PerformancePredictor(), workers=2, folder=tmp_path / "two", **how)
    assert told(found) == told(alone)
    assert alone.best.score > 0.2
    other = search(data, space, surrogate=bp.PerformancePredictor(), **{**how, "batch": 3})
    assert told(other)[:4] == told(alone)[:4] and told(other) != told(alone)  # rounds change what is known when


def test_the_default_training_is_a_fit(digits):
    data, validation = digits
    space = SearchSpace((1, 8, 8), 10, most_vertices=2, widths=(8,))
    found = search(data, space, validation=validation, trainings=2, population=2, epochs=3, seed=5)
    row = found.trainings[1]
    torch.manual_seed(6)
    network = bp.network_of(row.genome, (1, 8, 8), 10)
    model = bp.BayesianNetwork(network, dict.fromkeys(bp.weight_names(network), bp.Gaussian(1.0)), data_size=200)
    fit = bp.fit(model, data, epochs=3, seed=6, guide="map", execution="plain")
    assert row.score == fit.score(*validation)["accuracy"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "luck"}, "strategy 'luck' is unknown"),
        ({"acquisition": "greed"}, "acquisition 'greed' is unknown"),
        ({"trainings": 5}, "5 trainings are fewer than the population of 8"),
        ({"trainings": 0}, "trainings must be at least 1"),
        ({"population": 1}, "population must be at least 2"),
        ({"crossover": 1.5}, "crossover is a probability"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"workers": 10**9}, "workers must be at most 256"),
        ({"batch": 10**30}, "batch must be at most 1000"),
        ({"strategy": "random", "surrogate": Linear()}, "random search asks no surrogate"),
        ({"surrogate": object()}, "takes an object with fit"),
        ({"train": 3}, "takes a function of a network and a seed"),
        ({"batch_size": 10}, "batch_size= is for training by fit"),
        ({"train": None, "data": DATA, "validation": DATA, "learning_rate": math.inf}, "learning_rate"),
        ({"train": None, "data": DATA, "validation": DATA, "start": None}, "start= is not an argument"),
        ({"train": None}, "a search trains on data and chooses on validation data"),
        ({"train": lambda network, seed: 1.0, "workers": 2}, "cannot be sent to other processes"),
    ],
)
def test_bad_input_is_refused_in_a_sentence_before_anything_is_trained(space, landscape, tmp_path, given, message):
    place = tmp_path / "search"
    with pytest.raises(ValueError, match=message):
        search(**{"data": None, "space": space, **HOW, "train": landscape, "folder": place, **given})
    assert not (place / SEARCH_FILE).exists() or not json.loads((place / SEARCH_FILE).read_text())["trainings"]


@pytest.mark.parametrize(
    "predict",
    [lambda self, x: np.zeros(len(x)), lambda self, x: (np.zeros(3), np.zeros(3)),
     lambda self, x: (np.full(len(x), np.nan), np.ones(len(x))), lambda self, x: (np.ones(len(x)), -np.ones(len(x)))],
)  # fmt: skip
def test_a_surrogate_that_predicts_no_numbers_is_refused(space, landscape, predict):
    class Broken(Linear):
        pass

    Broken.predict = predict
    with pytest.raises(ValueError, match="Broken predicts no finite mean and standard deviation"):
        search(None, space, train=landscape, surrogate=Broken(), **HOW)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    place = tmp_path_factory.mktemp("kept") / "search"
    search(None, SearchSpace((1, 8, 8), 10), train=Landscape(), folder=place, trainings=6, population=3)
    return place


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 1}, "keeps a search with seed 0, but now it is 1"),
        ({"population": 4}, "keeps a search with population 3"),
        ({"surrogate": Linear()}, "keeps a search with surrogate None"),
        ({"train": Landscape(1)}, "keeps a search with training"),
        ({"batch": 2}, "keeps a search with batch 1"),
    ],
)
def test_a_folder_of_another_search_is_not_gone_on_with(kept, tmp_path, given, message):
    place = Path(shutil.copytree(kept, tmp_path / "search"))
    how = {"train": Landscape(), "trainings": 6, "population": 3, "folder": place}
    before = (place / SEARCH_FILE).read_text()
    with pytest.raises(ValueError, match=message):
        search(None, SearchSpace((1, 8, 8), 10), **{**how, **given})
    with pytest.raises(ValueError, match="keeps a search with space"):
        search(None, SearchSpace((1, 8, 8), 10, widths=(8,)), **how)
    assert (place / SEARCH_FILE).read_text() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.update(format=2), "format 2"),
        (lambda found: found.pop("trainings"), "lacks trainings"),
        (lambda found: found["trainings"][1].pop("score"), "other keys"),
        (lambda found: found["trainings"].reverse(), "another order"),
        (lambda found: found["trainings"][5].update(parents=[7]), "another order"),
        (lambda found: found["trainings"][1].update(score=None), "neither a score nor a problem"),
        (lambda found: found["trainings"][1].update(hash="0"), "has another hash"),
        (lambda found: found["trainings"][1]["genome"].update(edges=[[5, 1]]), "from lower to higher"),
        (lambda found: found["asked"].update(space={"classes": 3}), "its space has other settings"),
        (lambda found: found["asked"]["space"].update(widths=[10**9]), "a width is 1000000000"),
    ],
)
def test_a_damaged_folder_is_told_in_a_sentence(kept, tmp_path, change, message):
    place = Path(shutil.copytree(kept, tmp_path / "search"))
    found = json.loads((place / SEARCH_FILE).read_text())
    change(found)
    (place / SEARCH_FILE).write_text(json.dumps(found))
    with pytest.raises(ValueError, match=f"{SEARCH_FILE} is damaged .*{message}"):
        Searched.load(place)


def test_what_is_no_search_is_refused(tmp_path, landscape, space):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is no search"):
        search(None, space, train=landscape, folder=tmp_path, **HOW)
    with pytest.raises(ValueError, match="is no search: it has no"):
        Searched.load(tmp_path)
    (tmp_path / "notes.txt").unlink()
    (tmp_path / f".{SEARCH_FILE}-123").write_text("{")  # of a process that was killed
    search(None, space, train=landscape, folder=tmp_path, **HOW)
    assert [file.name for file in tmp_path.iterdir()] == [SEARCH_FILE]


def test_a_genome_is_found_in_a_folder_and_in_a_file(kept, tmp_path):
    best = Searched.load(kept).genome
    assert found_genome(kept) == best
    (tmp_path / "one.json").write_text(json.dumps(best.as_dict()))
    assert found_genome(tmp_path / "one.json") == best == Genome.from_dict(best.as_dict())
    for text, message in (("{}", "holds no genome"), ("[", "is damaged")):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            found_genome(tmp_path / "other.json")
    with pytest.raises(ValueError, match="is missing"):
        found_genome(tmp_path / "nowhere.json")


@pytest.mark.slow
def test_with_a_surrogate_a_search_finds_at_least_what_random_search_does_in_most_seeds(space):
    """On a landscape, 20 seeds of 40 trainings; the control is a surrogate that knows nothing."""

    class Blind(Linear):
        def predict(self, features):
            return np.zeros(len(features)), np.ones(len(features))

    at_least = {"forest": 0, "blind": 0}
    gains = []
    for seed in range(20):
        how = {"train": Landscape(seed), "trainings": 40, "population": 10, "batch": 5, "seed": 100 * seed}
        random = search(None, space, strategy="random", **how).best.score
        for name, surrogate in (("forest", bp.PerformancePredictor()), ("blind", Blind())):
            score = search(None, space, surrogate=surrogate, **how).best.score
            at_least[name] += score >= random
            gains += [score - random] if name == "forest" else []
    assert at_least["forest"] >= 14, at_least  # 70 %
    assert np.mean(gains) > 0.0
    assert at_least["forest"] >= at_least["blind"], at_least
