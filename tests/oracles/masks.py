"""A mask on weights as a way: what a first user of `Way` writes."""

from __future__ import annotations

import torch

from bayesprune.models.ways.buffer_dict import BufferDict
from bayesprune.models.ways.way import Way


class Masks(Way):
    """Zeros of weights by name of tensor, `(out, in, ...)`; change them in place."""

    name = "halves"

    def __init__(self, masks):
        super().__init__()
        self.masks = BufferDict(masks)

    @property
    def config(self):
        return {"tensors": list(self.masks)}

    def weights(self, weights, values, network):
        found = dict(weights)
        for name, mask in self.masks.items():
            found[name] = found.get(name, network.get_parameter(name)) * mask
        return found

    def open(self, values, network):
        return dict(self.masks.items())


def half(model, seed=0):
    """Masks that leave in half of the weights of every matrix of a model, by name."""
    random = torch.Generator().manual_seed(seed)
    shapes = {name: p.shape for name, p in model.network.named_parameters() if p.ndim > 1}
    return {name: torch.rand(shape, generator=random) < 0.5 for name, shape in shapes.items()}
