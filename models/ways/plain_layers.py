"""Layers of this package that are plain ones of torch in the end, and networks that have these in their place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

__all__ = ["plain_form", "plain_network", "put_module"]

Maker = Callable[[Mapping[str, Any], Collection[str]], Mapping[str, nn.Module]]
Noter = Callable[[nn.Module, Collection[str]], None]

_FORMS: dict[type[nn.Module], tuple[Maker, Noter | None]] = {}


def plain_form(kind: type[nn.Module], noted: Noter | None = None) -> Callable[[Maker], Maker]:
    """Decorates what makes plain layers of those of a kind.

    It gets all layers of the kind in a network by name, and the names of tensors that are given, and returns the plain
    layers by name of those that have become plain.

    Args:
        kind: The class of the layers.
        noted: Called with the changed network and the names of what was replaced, to note it in its config; default
            None.
    """

    def register(maker: Maker) -> Maker:
        _FORMS[kind] = (maker, noted)
        return maker

    return register


def plain_network(network: nn.Module, given: Collection[str] = ()) -> nn.Module:
    """A network with plain layers in the place of those that do no more than these: faded DyReLUs, masked layers.

    Args:
        network: The network; it is left as it is.
        given: Names of the tensors that the caller puts in, with zeros in place.

    Returns:
        A changed copy; the network itself where there is nothing to change.
    """
    made = network
    for kind, (maker, noted) in _FORMS.items():
        layers = {n: module for n, module in made.named_modules(remove_duplicate=False) if type(module) is kind}
        plain = maker(layers, given) if layers else {}
        if not plain:
            continue
        made = copy.deepcopy(network) if made is network else made
        for name, layer in plain.items():
            layer.training = layers[name].training
            made = put_module(made, name, layer)
        if noted is not None:
            noted(made, list(plain))
    return made


def put_module(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Puts a module in the place of another one, and returns the network: the module itself where that is replaced.

    Args:
        network: The network, which is changed.
        name: Name of the module that leaves; empty: the network.
        module: What takes its place.
    """
    if not name:
        return module
    owner, _, own = name.rpartition(".")
    setattr(network.get_submodule(owner), own, module)
    return network
