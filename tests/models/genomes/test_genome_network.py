"""Networks of genomes against a calculation by hand, made again from their config, pruned and made smaller."""

from __future__ import annotations

import json
import random

import pytest
import torch

import bayesprune as bp
from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.genome_network import network_of
from bayesprune.models.genomes.random_genomes import random_genome
from bayesprune.models.genomes.search_space import SearchSpace, parameters_of
from bayesprune.models.ready_networks import make_ready, network_from_config
from tests.oracles.genomes import values_by_hand

IMAGES = ("conv3x3", "conv1x1", "conv3x3-bn", "max-pool", "average-pool", "global-pool", "gru", "linear", "identity")
SHAPES = {(9,): None, (5, 4): None, (1, 8, 8): IMAGES, (2, 15, 9): IMAGES, (1, 33, 20): IMAGES}


def genomes(shape, count, seed=0):
    space, rng = SearchSpace(shape, 3, SHAPES[shape], widths=(4, 8)), random.Random(seed)
    return [random_genome(space, rng) for _ in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_are_those_of_a_calculation_by_hand(shape):
    torch.manual_seed(0)
    differ = 0
    for genome in genomes(shape, 15):
        network = network_of(genome, shape, 3).double().eval()
        x = torch.randn(2, *shape, dtype=torch.float64)
        with torch.no_grad():
            expected = values_by_hand(network, x)
            torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-10)
            # Control: the head's columns in another order.
            network.head.weight.copy_(network.head.weight.flip(1))
            differ += not torch.allclose(network(x), expected, rtol=1e-10, atol=1e-10)
    assert differ >= 10  # the rest have one feature before the head, or none that is not zero


@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_is_made_again_from_its_config(shape):
    for genome in genomes(shape, 5, seed=1):
        network = network_of(genome, shape, 3, width=0.5)
        again = network_from_config(json.loads(json.dumps(network.config)))
        again.load_state_dict(network.state_dict())
        x = torch.randn(2, *shape)
        assert torch.equal(again.eval()(x), network.eval()(x)) and again.config == network.config
        assert sum(one.numel() for one in network_of(genome, shape, 3).parameters()) == parameters_of(genome, shape, 3)


@pytest.mark.filterwarnings("ignore:.*units are dead")
@pytest.mark.parametrize("shape", [(9,), (5, 4), (2, 15, 9)])
def test_a_network_with_zeros_is_made_smaller_and_computes_the_same(shape):
    torch.manual_seed(1)
    smaller = 0
    for genome in genomes(shape, 8, seed=2):
        network = network_of(genome, shape, 3).double().eval()
        with torch.no_grad():
            for name, value in network.named_parameters():
                rows = (torch.rand(len(value)) > 0.5).to(value.dtype)
                if not name.startswith("head"):
                    value.mul_(rows.reshape(-1, *[1] * (value.ndim - 1)))
        x = torch.randn(3, *shape, dtype=torch.float64)
        found = bp.compact(network, x)
        torch.testing.assert_close(found.network(x), network(x), rtol=1e-8, atol=1e-8)
        before, after = (sum(one.numel() for one in each.parameters()) for each in (network, found.network))
        smaller += after < before
        assert bp.costs(network, x[:1]).weights > 0
    assert smaller >= 4


def test_a_fitted_genome_is_saved_loaded_and_pruned(tmp_path):
    torch.manual_seed(0)
    genome = Genome(("conv3x3", "max-pool", "linear"), (4, 0, 8), ((0, 1), (0, 2), (1, 2), (2, 3), (3, 4)))
    x, y = torch.randn(60, 1, 8, 8), torch.arange(60) % 3
    network = network_of(genome, (1, 8, 8), 3)
    priors = dict.fromkeys(bp.weight_names(network), bp.SpikeAndSlab())
    fit = bp.fit(bp.BayesianNetwork(network, priors, data_size=60), (x, y), epochs=2, seed=0)
    fit.save(tmp_path / "fit")
    again = bp.Fit.load(tmp_path / "fit")
    assert torch.equal(again.predict(x, draws=3, seed=0).mean, fit.predict(x, draws=3, seed=0).mean)
    assert bp.prune(again, sparsity=0.5).network(x).shape == (60, 3)


@pytest.mark.parametrize(
    ("genome", "shape", "message"),
    [
        (Genome(("linear",), (8,), ((1, 2),)), (4,), "no path leads"),
        (
            Genome(("linear", "gru"), (8, 8), ((0, 1), (1, 2), (2, 3))),
            (5, 4),
            "vertex 2 .gru. of the genome needs a s",
        ),
        (Genome(("conv1x1",), (8,), ((0, 1), (1, 2))), (5, 4), "vertex 1 .conv1x1. of the genome needs a map"),
        (Genome(("linear",), (8,), ((0, 1), (1, 2))), (1, 2, 3, 4), "it takes features"),
        (Genome(("linear", "linear"), (2**16, 2**16), ((0, 1), (1, 2), (2, 3))), (4,), "parameters, but at most"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(genome, shape, message):
    with pytest.raises(ValueError, match=message):
        network_of(genome, shape, 3)


def test_a_config_of_a_file_is_bounded():
    config = network_of(genomes((9,), 1)[0], (9,), 3).config
    for change, message in (
        ({"genome": None}, "lacks a genome"),
        ({"genome": {**config["genome"], "widths": [10**12] * len(config["genome"]["widths"])}}, "a whole number from"),
        ({"classes": 10**12}, "classes is"),
        ({"width": -1}, "width is -1"),
        ({"name": "lenet-5", "input_shape": [1, 8, 8]}, "has no genome"),
    ):
        with pytest.raises(ValueError, match=message):
            network_from_config({**config, **change})
    with pytest.raises(ValueError, match="lacks a genome"):
        make_ready("genome", (9,), 3)
