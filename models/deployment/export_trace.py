"""Export trace: a network's torch.fx graph as an export needs it, for the inputs of an example."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.deployment.module_source import refuse_hooks
from bayesprune.models.graphs.forward_constants import recorded_factories
from bayesprune.models.graphs.traced_graph import InPlaceTracer, refuse_reserved_names, take_out
from bayesprune.models.networks.dyrelu_networks import refuse_active

__all__ = ["agree", "cloned", "placed", "run_traced", "trace"]

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}  # of the output's largest number; half precision below


def trace(network: nn.Module, inputs: tuple[Any, ...]) -> fx.Graph:
    """Traces a network by torch.fx; arguments of its forward beyond the inputs are held at their defaults.

    Raises:
        ValueError: If it cannot be traced, with the layer and the reason, or its code cannot be written.
    """
    parameters = list(inspect.signature(network.forward).parameters.values())
    held = {p.name: p.default for p in parameters[len(inputs) :] if p.default is not inspect.Parameter.empty}
    refuse_hooks("", network)
    refuse_active(network)
    tracer = _Tracer()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Was not able to add assertion", category=UserWarning)
            with recorded_factories(tracer):
                graph = tracer.trace(network, concrete_args=held)
    except Exception as problem:  # the forward is the user's code, and a proxy in place of a tensor breaks it anyhow
        where = f"layer {tracer.inside!r}" if tracer.inside else "the network's forward"
        reason = first_line(problem)
        control = isinstance(problem, fx.proxy.TraceError)
        because = "its control flow depends on the data" if control else f"{type(problem).__name__}: {reason}"
        raise ValueError(
            f"{where} cannot be traced by torch.fx ({because}), but an export needs a fixed sequence of layers and "
            "functions of torch: replace the branch or loop"
        ) from problem
    refuse_reserved_names(graph)
    for node in [node for node in graph.nodes if node.op == "placeholder"][len(inputs) :]:
        take_out(graph, node)
    for node in graph.nodes:
        if _is_idle(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return graph


def _is_idle(node: fx.Node) -> bool:
    """Whether a node drops out nothing, being in evaluation mode."""
    target: Any = node.target
    name, home = getattr(target, "__name__", ""), getattr(target, "__module__", None) or ""
    if node.op != "call_function" or home.split(".")[0] not in ("torch", "torchvision"):
        return False
    if name == "stochastic_depth":  # torchvision's; it passes everything by position
        return (*node.args, node.kwargs.get("training"))[3] is False
    return "dropout" in name and node.kwargs.get("training") is False


class _Tracer(InPlaceTracer):
    """Remembers which layer it is in, also when tracing fails there."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = ""

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Traces a layer's call."""
        before, self.inside = self.inside, self.path_of_module(m)
        refuse_hooks(self.inside, m)
        found = super().call_module(m, forward, args, kwargs)
        self.inside = before
        return found


def run_traced(network: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...]) -> tuple[dict[fx.Node, bool], Any]:
    """Runs a network and its graph on an example.

    Returns:
        Nodes whose results are a tensor (true) or hold some (false), and what the network itself gives.

    Raises:
        ValueError: If it does not take the example.
    """
    tensors: dict[fx.Node, bool] = {}

    class Run(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found = super().run_node(n)
            if any(torch.is_tensor(part) for part in _pytree.tree_leaves(found)):
                tensors[n] = torch.is_tensor(found)
            return found

    with torch.no_grad():
        try:
            outputs = network(*cloned(inputs))
            Run(fx.GraphModule(network, graph)).run(*cloned(inputs))
        except Exception as problem:  # whatever the user's layers raise
            shapes = ", ".join(str(tuple(part.shape)) if torch.is_tensor(part) else repr(part) for part in inputs)
            reason = first_line(problem)
            raise ValueError(f"the network does not take an example input of shape {shapes} ({reason})") from problem
    return tensors, outputs


def cloned(inputs: tuple[Any, ...]) -> list[Any]:
    """Copies, as a network may work in place."""
    return [part.clone() if torch.is_tensor(part) else part for part in inputs]


def placed(part: Any, network: nn.Module) -> Any:
    """An example input on the CPU and, for numbers with a fraction, in the network's dtype."""
    like = next((p for p in network.parameters() if p.is_floating_point()), None)
    if not torch.is_tensor(part):
        return part
    return part.detach().to("cpu", like.dtype if like is not None and part.is_floating_point() else part.dtype)


def agree(one: Any, other: Any) -> bool:
    """Whether two outputs are the same up to rounding."""
    if not torch.is_tensor(one) or not torch.is_tensor(other):
        return type(one) is type(other) and bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() or not one.numel():
        return torch.equal(one, other)
    largest = float(one.detach().abs().nan_to_num(0.0, 0.0, 0.0).max())
    tolerance = _TOLERANCE.get(one.dtype, 5e-2) * max(largest, torch.finfo(one.dtype).tiny)
    return torch.allclose(one, other, rtol=0.0, atol=tolerance, equal_nan=True)
