"""Standardisation inside a network: it is trained on standardised numbers, and speaks in the units of the data.

`put_in_units` gives a network a class of its own, derived from the one it has and of the same name, whose forward
standardises the inputs, runs the forward as it was written, and puts the outputs back into the user's units. The
numbers it does that with are buffers of the network: they are saved, moved and copied with it. Names of parameters and
modules stay as they were, and whatever runs the network, traces it or writes it down gets the user's units.
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["UNITS", "put_in_units", "units_of"]

UNITS = ("data_input_mean", "data_input_sd", "data_output_shift", "data_output_factor")
"""Names of the buffers: inputs are (x - mean) / sd inside, outputs shift + factor * outputs outside."""
_INPUTS, _OUTPUTS = UNITS[:2], UNITS[2:]


def units_of(network: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The buffers by which a network is standardised, by their names in `UNITS`; none where it is not.

    Args:
        network: The network, or its state dict.
    """
    found = dict(network.named_buffers(recurse=False)) if isinstance(network, nn.Module) else network
    return {name: found[name] for name in UNITS if name in found}


def put_in_units(network: nn.Module, units: Mapping[str, Tensor]) -> None:
    """Has a network standardise its inputs, its outputs, or both, IN PLACE.

    Args:
        network: The network, whose forward takes one tensor.
        units: Tensors by their names in `UNITS`, means with sds and shifts with factors, that broadcast to inputs
            `(n, ...)` and outputs `(n, ...)`.

    Raises:
        ValueError: If the network is standardised already, has attributes of these names, or cannot be given another
            forward: one that is compiled, or has a forward of the instance's own.
    """
    for one, other in (_INPUTS, _OUTPUTS):
        if (one in units) != (other in units):
            raise ValueError(f"{one} and {other} go together: give both or none")
    taken = [name for name in units if hasattr(network, name)]
    if taken:
        raise ValueError(f"the network has {taken[0]} already: it is standardised, or the name is taken")
    like = next((tensor for tensor in network.parameters() if tensor.is_floating_point()), torch.zeros(()))
    if isinstance(network, fx.GraphModule):
        _in_graph(network, units)
    elif "forward" in vars(network):
        raise ValueError("the network's forward is an attribute of its own, which a class does not change")
    else:
        try:
            network.__class__ = _in_units(type(network))
        except TypeError as problem:
            raise ValueError(f"the network cannot be given another forward ({problem})") from problem
    for name, value in units.items():
        network.register_buffer(name, value.detach().to(like.device, like.dtype, copy=True))


def _in_units(kind: type[nn.Module]) -> type[nn.Module]:
    """A class derived from a network's, which runs it on standardised numbers; of the same name, for the eye.

    It holds a forward of one argument with no star: torch.fx reads the arguments off the code.
    """

    def forward(self: Any, x: Tensor) -> Any:
        if "data_input_mean" in self._buffers:
            x = (x - self.data_input_mean) / self.data_input_sd
        outputs = kind.forward(self, x)
        if "data_output_factor" in self._buffers:  # a slice of a Sequential is of this class too, without buffers
            outputs = outputs * self.data_output_factor + self.data_output_shift
        return outputs

    def reduce(self: nn.Module, protocol: Any) -> Any:
        """Has pickle name the class that this one is derived from, as it cannot find this one."""
        made = kind.__reduce_ex__(self, protocol)
        if isinstance(made, tuple) and made[0] is copyreg.__newobj__:  # type: ignore[attr-defined]
            return _blank, (kind, *made[1][1:]), *made[2:]
        return made

    members = {
        "forward": forward, "__reduce_ex__": reduce, "__module__": kind.__module__, "__doc__": kind.__doc__,
        "__qualname__": kind.__qualname__,
    }  # fmt: skip
    return type(kind.__name__, (kind,), members)


def _blank(kind: type[nn.Module], *arguments: Any) -> nn.Module:
    """An empty network of a class that is derived from this one, as pickle fills it."""
    derived = _in_units(kind)
    return derived.__new__(derived, *arguments)


def _in_graph(network: fx.GraphModule, units: Mapping[str, Tensor]) -> None:
    """Writes the standardisation into the graph of a GraphModule, whose copies are made from that alone."""
    graph = network.graph
    inputs = next(node for node in graph.nodes if node.op == "placeholder")
    output = next(node for node in graph.nodes if node.op == "output")
    if _INPUTS[0] in units:
        following = inputs.next
        with graph.inserting_before(following):
            mean, sd = (graph.create_node("get_attr", name) for name in _INPUTS)
            centred = graph.call_function(torch.sub, (inputs, mean))
            scaled = graph.call_function(torch.div, (centred, sd))
        inputs.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not centred)
    if _OUTPUTS[0] in units:
        result = output.args[0]
        if not isinstance(result, fx.Node):
            raise ValueError("the network returns several results, which have no one unit")
        with graph.inserting_before(output):
            shift, factor = (graph.create_node("get_attr", name) for name in _OUTPUTS)
            wide = graph.call_function(torch.mul, (result, factor))
            back = graph.call_function(torch.add, (wide, shift))
        output.replace_input_with(result, back)
    network.recompile()
