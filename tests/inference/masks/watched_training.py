"""A small fit under `DynamicMasks` and all that a loop of one's own needs to repeat it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

import bayesprune as bp
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.rules.rule import ActiveRule, Change, Rule
from bayesprune.models.masks.mask_way import Masks

SIZE, BATCH, STEPS, DECAY, RATE = 160, 40, 200, 1e-3, 0.1
SIZES = {"0.weight": 98, "2.weight": 140, "4.weight": 30}
GENERATOR = torch.Generator().manual_seed(4)
X = torch.randn(SIZE, 7, generator=GENERATOR, dtype=torch.float64)
Y = (X[:, 0] * X[:, 1] + X[:, 2] > 0).long() + (X[:, 3] > 1).long()


def network(seed=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 14), nn.Tanh(), nn.Linear(14, 10), nn.Tanh(), nn.Linear(10, 3)).double()


def model(prior=None, **more):
    prior = bp.Gaussian.from_weight_decay(DECAY, data_size=SIZE) if prior is None else prior
    return bp.BayesianNetwork(network(), {"*.weight": prior}, data_size=SIZE, **more)


@dataclass(frozen=True)
class Watch(Rule):
    """Notes batches, random states before updates, masks and latents after every step."""

    seen: dict = field(default_factory=dict)
    name: ClassVar[str] = "watch"

    def begin(self, run):
        return Watching(run, self.seen)


class Watching(ActiveRule):
    def __init__(self, run, seen):
        self.run, self.seen = run, seen
        seen.update(batches={}, random={}, masks={}, out={}, came={}, start=self.places())

    def places(self):
        way = next(way for way in self.run.objective.model.ways if isinstance(way, Masks))
        return {name: set(mask.flatten().nonzero().flatten().tolist()) for name, mask in way.masks.items()}

    def before_step(self, step):
        """Looks at what all that followed the step before has left."""
        places, before = self.places(), self.seen["masks"].get(step - 2, {})
        self.seen["masks"][step - 1] = places
        came = {name: sorted(there - before.get(name, there)) for name, there in places.items()}
        if any(came.values()):
            self.seen["came"][step - 1] = held_at(self.run, came)

    def after_step(self, taken):
        self.seen["batches"][taken.step] = (taken.x.clone(), taken.y.clone())
        self.seen["random"][taken.step] = torch.get_rng_state()
        out = {name: sorted(set(range(SIZES[name])) - there) for name, there in self.places().items()}
        self.seen["out"][taken.step] = held_at(self.run, out)
        return Change.NOTHING


def held_at(run, places):
    """Sums of |location| and |optimizer state| of weights by flat places."""
    found = [0.0, 0.0]
    for name, there in places.items():
        for parameter, piece in run.slices(name):
            states = [s for s in run.optimizer.state[parameter].values() if s.shape == parameter.shape]
            for which, tensors in enumerate(([parameter.data], states)):
                found[which] += sum(float(piece.of(tensor).flatten()[there].abs().sum()) for tensor in tensors)
    return found


def fitted(rule=None, seen=None, given=None, **more):
    """A fit of the small model, with what `Watch` sees."""
    rules = [Watch({} if seen is None else seen), *([] if rule is None else [rule])]
    how = {
        "guide": "map", "steps": STEPS, "batch_size": BATCH, "precision": "float64", "device": "cpu",
        "execution": "plain",
    }  # fmt: skip
    if more.get("execution") == "fused":
        how["compiled"] = False
    return bp.fit(model() if given is None else given, (X, Y), rules=rules, **{**how, **more})


def dynamic(density=0.3, **more):
    return DynamicMasks(density=density, **more)


def loss_of(batches):
    """Mean loss of a step's batch at parameters by name."""
    layers = network()

    def loss(values, step):
        x, y = batches[step]
        return functional.cross_entropy(torch.func.functional_call(layers, dict(values), (x,)), y)

    return loss


def ended(fit):
    """Parameters by name, as the network runs with them."""
    weights = fit.model.weights_at(fit.guide.means())
    points = dict(fit.model.network.named_parameters())
    return {name: weights.get(name, points[name]).detach() for name in points}
