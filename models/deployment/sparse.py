"""Sparse execution: Linear layers in a sparse layout where that is measured to be faster, dense ones elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.costs.latency import latency, ratio
from bayesprune.models.deployment.sparse_linear import SparseLinear
from bayesprune.models.language.levels import DEFAULT_BLOCK

__all__ = ["SparseLayer", "SparseReport", "SparseResult", "to_sparse"]


@dataclass(frozen=True)
class SparseLayer:
    """What was found for one Linear layer; what was not measured is None.

    Attributes:
        shape: `(out, in)`.
        density: Fraction of weights that are not zero.
        block_density: Fraction of blocks with any weight that is not zero: what BSR stores. None for CSR.
        input_shape: Shape of the input that the layer saw and was timed on.
        dense_seconds: Seconds for one call of the dense layer, median.
        sparse_seconds: Seconds for one call of the sparse one, median.
        speed_up: Dense seconds by sparse ones, median over rounds.
        speed_up_quartiles: Quartiles over rounds of the same.
        max_difference: Largest difference of the two layers' outputs.
        converted: Whether the layer is sparse in the result.
        reason: Why it is not; empty where it is.
    """

    shape: tuple[int, int]
    density: float
    block_density: float | None
    converted: bool
    reason: str
    input_shape: tuple[int, ...] | None = None
    dense_seconds: float | None = None
    sparse_seconds: float | None = None
    speed_up: float | None = None
    speed_up_quartiles: tuple[float, float] | None = None
    max_difference: float | None = None


@dataclass(frozen=True)
class SparseReport:
    """What `to_sparse` did. `str()` is a table.

    Attributes:
        layout: ``"csr"`` or ``"bsr"``.
        block: Rows and columns of a block, None for CSR.
        layers: Linear layers by name.
        max_output_difference: Largest difference of the two networks' outputs on the example.
        output_sd: Standard deviation of the network's output on the example.
    """

    layout: str
    block: tuple[int, int] | None
    layers: dict[str, SparseLayer]
    max_output_difference: float
    output_sd: float

    def __str__(self) -> str:
        width = max(len(name) for name in self.layers)
        blocks = "" if self.block is None else f"{'block density':>15}"
        lines = [
            f"{'layer':<{width}}{'shape':>13}{'density':>9}{blocks}{'dense ms':>10}{'sparse ms':>11}{'speed-up':>10}"
        ]
        for name, one in self.layers.items():
            shape = f"{one.shape[0]} x {one.shape[1]}"
            blocks = "" if self.block is None else _number(one.block_density, 15, ".3f")
            times = _number(one.dense_seconds, 10, ".4g", 1e3) + _number(one.sparse_seconds, 11, ".4g", 1e3)
            end = f"  {self.layout}" if one.converted else f"  dense: {one.reason}"
            lines.append(
                f"{name:<{width}}{shape:>13}{one.density:>9.3f}{blocks}{times}{_number(one.speed_up, 10, '.2f')}{end}"
            )
        lines.append(f"largest difference of outputs {self.max_output_difference:.2g}, their sd {self.output_sd:.2g}")
        return "\n".join(lines)


@dataclass(frozen=True)
class SparseResult:
    """A network with sparse layers.

    Attributes:
        network: A copy of the network in evaluation mode, for inference; layers that gained are `SparseLinear`.
        report: What was measured and done.
    """

    network: nn.Module
    report: SparseReport


def to_sparse(
    network: nn.Module,
    example_input: Any,
    layout: str = "csr",
    block: tuple[int, int] = DEFAULT_BLOCK,
    at_least: float = 1.05,
    threads: int | None = 1,
    repeats: int = 100,
    seconds: float = 0.5,
) -> SparseResult:
    """Puts the Linear layers of a masked network in a sparse layout, each where that is measured to be faster.

    Each layer is timed dense and sparse, by turns, on the input that it sees when the network is given the example:
    the example's batch size matters, as does the machine. Other layers stay as they are, convolutions too: PyTorch
    has no sparse ones.

    The result is for this machine and is not meant to be saved: save or export the masked network, and call this
    after loading. (Its state dict holds plain tensors, but not which layers are sparse.)

    Args:
        network: The network, with zeros in place; it is left as it was.
        example_input: An input of the batch size that the network will be used at; a tuple for several inputs.
        layout: ``"csr"`` (default) stores single weights; ``"bsr"`` stores blocks with any weight that is not zero,
            which gains only where whole blocks are zero, as a prior with ``per="block"`` makes them.
        block: Rows and columns of a block of BSR, default 16 x 16; layers that it does not divide stay dense.
        at_least: Speed-up from which on a layer is converted, default 1.05: less may be chance.
        threads: Number of PyTorch's threads when timing, default 1; None leaves it.
        repeats: Rounds of timing, default 100.
        seconds: Time allowed for timing each layer each way, default 0.5.

    Returns:
        The network and a report with every measurement.

    Raises:
        ValueError: If no layer gains, with what was measured, or the network has no Linear layer.
    """
    if layout not in ("csr", "bsr"):
        raise ValueError(f"layout takes 'csr' or 'bsr', not {layout!r}")
    if layout == "bsr" and (len(block) != 2 or min(block) < 1):
        raise ValueError(f"block takes rows and columns of a block, such as (16, 16), not {block!r}")
    if not at_least >= 1.0:
        raise ValueError(f"at_least is a speed-up of 1 or more, not {at_least}: dense layers are at 1")
    chosen = (int(block[0]), int(block[1])) if layout == "bsr" else None
    copied = copy.deepcopy(network).eval()
    linears = {name: module for name, module in copied.named_modules() if type(module) is nn.Linear}
    if not linears:
        raise ValueError("the network has no layer of type nn.Linear, and only these have sparse kernels: compact it")
    inputs = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    with torch.inference_mode(), _recorded(linears) as seen:
        expected = _pytree.tree_leaves(copied(*(_own(part) for part in inputs)))
    layers, replacements = {}, {}
    for name, linear in linears.items():
        shared = _shared(name, linear, copied)
        layers[name], replacement = _try(linear, seen.get(name), chosen, shared, (at_least, threads, repeats, seconds))
        if layers[name].converted:
            replacements[linear] = replacement
    if not replacements:
        raise ValueError(_nothing_gained(layers, layout, inputs))
    for name, module in list(copied.named_modules(remove_duplicate=False)):
        if module in replacements:
            copied = _replaced(copied, name, replacements[module])
    with torch.inference_mode():
        found = _pytree.tree_leaves(copied(*(_own(part) for part in inputs)))
    pairs = [(a.double(), b.double()) for a, b in zip(expected, found, strict=True) if torch.is_tensor(a) and a.numel()]
    difference = max((float((a - b).abs().max()) for a, b in pairs), default=0.0)
    spread = float(torch.cat([a.flatten() for a, _ in pairs]).std(correction=0)) if pairs else 0.0
    return SparseResult(copied, SparseReport(layout, chosen, layers, difference, spread))


def _try(
    linear: nn.Linear,
    seen: Tensor | None,
    block: tuple[int, int] | None,
    shared: str,
    settings: tuple[float, int | None, int, float],
) -> tuple[SparseLayer, SparseLinear | None]:
    """Measures one layer both ways."""
    weight = linear.weight.detach()
    out, into = weight.shape
    density = int(torch.count_nonzero(weight)) / weight.numel()
    divides = block is None or (out % block[0] == 0 and into % block[1] == 0)
    stored = None
    if block is not None and divides:
        tiles = weight.view(out // block[0], block[0], into // block[1], block[1])
        stored = float((tiles != 0).any(dim=3).any(dim=1).double().mean())
    if seen is None:
        reason = "the network does not call it for the example"
    elif not divides:
        reason = f"blocks of {block[0]} x {block[1]} do not divide its {out} x {into} weights"  # type: ignore[index]
    else:
        reason = shared
    if reason:
        return SparseLayer((out, into), density, stored, False, reason), None
    assert seen is not None
    at_least, threads, repeats, seconds = settings
    try:
        sparse = SparseLinear(linear, block)
        with torch.inference_mode():
            difference = float((linear(seen) - sparse(seen)).abs().max()) if seen.numel() else 0.0
    except RuntimeError as problem:  # this build of PyTorch lacks the kernel
        reason = f"PyTorch does not run it ({first_line(problem)})"
        return SparseLayer((out, into), density, stored, False, reason), None
    found = latency({"dense": linear, "sparse": sparse}, seen, repeats, threads, seconds)
    gain = ratio(found["dense"], found["sparse"])
    faster = gain.median >= at_least
    layer = SparseLayer(
        shape=(out, into),
        density=density,
        block_density=stored,
        converted=faster,
        reason="" if faster else "not faster",
        input_shape=tuple(seen.shape),
        dense_seconds=found["dense"].median,
        sparse_seconds=found["sparse"].median,
        speed_up=gain.median,
        speed_up_quartiles=(gain.lower, gain.upper),
        max_difference=difference,
    )
    return layer, sparse


def _nothing_gained(layers: dict[str, SparseLayer], layout: str, inputs: Any) -> str:
    """The sentence that refuses, with the measurements."""
    parts = []
    for name, one in layers.items():
        blocks = "" if one.block_density is None else f", of blocks {one.block_density:.2g}"
        measured = None if one.speed_up is None else f"{name} {one.speed_up:.2f}x at density {one.density:.2g}{blocks}"
        parts.append(measured or f"{name}: {one.reason}")
    first = next((len(part) for part in inputs if torch.is_tensor(part) and part.ndim), 1)
    return (
        f"no Linear layer is faster in {layout} at batch {first}: {', '.join(parts)}; keep it dense, or remove whole "
        "units by compact"
    )


@contextmanager
def _recorded(linears: dict[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    """Notes the first input that each layer sees meanwhile."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.setdefault(name, (args[0] if args else kwargs["input"]).detach().clone())

        return hook

    handles = [linear.register_forward_pre_hook(note(name), with_kwargs=True) for name, linear in linears.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _shared(name: str, linear: nn.Linear, network: nn.Module) -> str:
    """Why a layer cannot be replaced by another: its weight is in use elsewhere, or code hangs on it."""
    for module in network.modules():
        if module is not linear and any(other is linear.weight for other in module.parameters(recurse=False)):
            return "its weight is shared with another layer"
    return "it has forward hooks" if linear._forward_hooks or linear._forward_pre_hooks else ""


def _replaced(network: nn.Module, name: str, layer: nn.Module | None) -> nn.Module:
    if not name:
        assert layer is not None
        return layer
    owner, _, last = name.rpartition(".")
    setattr(network.get_submodule(owner), last, layer)
    return network


def _own(part: Any) -> Any:
    """A copy, as a network may work in place."""
    return part.clone() if torch.is_tensor(part) else part


def _number(value: float | None, width: int, form: str, scale: float = 1.0) -> str:
    return f"{'' if value is None else format(value * scale, form):>{width}}"
