"""Random small convolutional networks as programs, with units that are dead in many ways.

A program is a list of steps of integers; each integer is taken modulo what is possible, so that any list is a program
and shrinks to a short one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS, SIDE = 3, 6
ZERO_AT_ZERO: list[Callable[[], nn.Module]] = [nn.ReLU, lambda: nn.ReLU(inplace=True), nn.Tanh, nn.ReLU6, nn.Hardswish]
OTHERS: list[Callable[[], nn.Module]] = [nn.Sigmoid, nn.Softplus, nn.Hardsigmoid, lambda: nn.LeakyReLU(0.2)]


class RandomNetwork(nn.Module):
    """A network whose forward runs a program: `(name of operation, numbers of sources, arguments)` a step."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self.gates = nn.ParameterDict()
        self.program: list[tuple[str, list[int], Any]] = []
        self.outputs: list[int] = []

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Runs the program."""
        found = [x]
        for operation, sources, arguments in self.program:
            result = getattr(self, f"do_{operation}")(*[found[source] for source in sources], arguments)
            found.extend(result if isinstance(result, (tuple, list)) else [result])
        return tuple(found[output] for output in self.outputs)

    def do_layer(self, x: Tensor, name: str) -> Tensor:
        return self.layers[name](x)

    def do_add(self, a: Tensor, b: Tensor, _: Any) -> Tensor:
        return a + b

    def do_add_in_place(self, a: Tensor, b: Tensor, _: Any) -> Tensor:
        a = a * 1.0
        a += b
        return a.add_(b)

    def do_mul(self, a: Tensor, b: Tensor, _: Any) -> Tensor:
        return a * b

    def do_cat(self, a: Tensor, b: Tensor, _: Any) -> Tensor:
        return torch.cat([a, b], 1)

    def do_chunk(self, x: Tensor, _: Any) -> Any:
        a, b = x.chunk(2, dim=1)
        return a, b

    def do_split(self, x: Tensor, sizes: list[int]) -> Any:
        a, b = torch.split(x, sizes, dim=1)
        return a, b

    def do_slice(self, x: Tensor, place: int) -> Any:
        return x[:, :place], x[:, place - x.shape[1] :, :]

    def do_fit(self, x: Tensor, side: int) -> Tensor:
        return F.adaptive_avg_pool2d(x, side)

    def do_grow(self, x: Tensor, side: int) -> Tensor:
        return F.interpolate(x, size=(side, side), mode="nearest")

    def do_pad(self, x: Tensor, value: float) -> Tensor:
        return F.max_pool2d(F.pad(x, (1, 1, 0, 2), value=value), 3, 1)

    def do_pad_channels(self, x: Tensor, counts: tuple[int, int]) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, counts[0], counts[1]))

    def do_shuffle(self, x: Tensor, groups: int) -> Tensor:
        n, c, h, w = x.size()
        return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)

    def do_gate(self, x: Tensor, name: str) -> Tensor:
        return x * self.gates[name]

    def do_pool_gate(self, x: Tensor, _: Any) -> Tensor:
        return x.mean((2, 3), keepdim=True)

    def do_scale(self, x: Tensor, factor: float) -> Tensor:
        return 1.0 - x * factor

    def do_relu_in_place(self, x: Tensor, _: Any) -> Tensor:
        x = x + 0.0
        F.relu(x, inplace=True)
        return x

    def do_head(self, x: Tensor, how: tuple[str, int]) -> Tensor:
        if how[0] == "pool":
            return F.adaptive_avg_pool2d(x, 1).flatten(1)
        return x.flatten(1) if how[0] == "flatten" else x.reshape(-1, how[1])


class Builder:
    """Makes a network of steps."""

    def __init__(self, steps: Sequence[Sequence[int]], smooth: bool = False) -> None:
        self.network = RandomNetwork()
        self.smooth = smooth
        self.shapes: list[tuple[int, int]] = [(CHANNELS, SIDE)]
        self._conv(0, 4, 0, 0)  # what is tied to the input stays, so that hardly anything else reads it
        for step in steps:
            self._step(*step)
        self._heads(steps)

    def _add(self, operation: str, sources: list[int], arguments: Any, *shapes: tuple[int, int]) -> int:
        self.network.program.append((operation, sources, arguments))
        self.shapes.extend(shapes)
        return len(self.shapes) - 1

    def _layer(self, source: int, layer: nn.Module, channels: int, side: int) -> int:
        name = f"{type(layer).__name__.lower()}{len(self.network.layers)}"
        self.network.layers[name] = layer
        return self._add("layer", [source], name, (channels, side))

    def _conv(self, source: int, made: int, b: int, c: int) -> int:
        read, side = self.shapes[source]
        kernel = 3 if side >= 3 and b % 3 else 1
        padding = b // 3 % 2 if kernel == 3 else 0
        mode = ["zeros", "zeros", "reflect", "replicate"][b // 6 % 4] if side > 1 else "zeros"
        groups = [1, 1, read, 2][c % 4]
        if groups == read > 1:
            made = read * (1 + made % 2)
        elif groups == 2:
            groups = 2 if read % 2 == 0 else 1
            made += made % groups
        layer = nn.Conv2d(
            read, made, kernel, padding=padding, padding_mode=mode, groups=groups, bias=bool(c // 4 % 2 == 0)
        )
        return self._layer(source, layer, made, side + 2 * padding - kernel + 1)

    def _like(self, source: int, shape: tuple[int, int], b: int) -> int:
        """A source brought to a shape."""
        if self.shapes[source][0] != shape[0]:
            source = self._conv(source, shape[0], 0, 4 * (b % 2))
        if self.shapes[source][1] != shape[1]:
            grow = self.shapes[source][1] < shape[1]
            source = self._add("grow" if grow else "fit", [source], shape[1], shape)
        return source

    def _step(self, kind: int, a: int, b: int, c: int) -> None:
        source = len(self.shapes) - 1 - a % min(3, len(self.shapes) - 1)
        channels, side = self.shapes[source]
        other = b % len(self.shapes) if c % 20 == 0 else 1 + b % (len(self.shapes) - 1)
        kinds = (
            "conv conv conv bn activation activation add mul cat chunk split slice max avg pad_channels shuffle gate "
            "squeeze scale grow pad again prelu transposed relu_in_place add_in_place pixels"
        ).split()
        if kind % len(kinds) and channels < 2 and kinds[kind % len(kinds)] in ("chunk", "split", "slice"):
            return
        match kinds[kind % len(kinds)]:
            case "conv":
                self._conv(source, 2 + c % 5, b, c)
            case "bn":
                layer = nn.BatchNorm2d(channels, affine=b % 5 != 0, track_running_stats=b % 7 != 0 or side == 1)
                self._layer(source, layer, channels, side)
            case "activation":
                choices = ZERO_AT_ZERO if self.smooth else ZERO_AT_ZERO + OTHERS
                self._layer(source, choices[b % len(choices)](), channels, side)
            case "prelu":
                self._layer(source, nn.PReLU(channels if b % 3 else 1), channels, side)
            case "add" | "mul" | "add_in_place" as operation:
                self._add(operation, [source, self._like(other, (channels, side), c)], None, (channels, side))
            case "cat":
                other = self._like(other, (self.shapes[other][0], side), c)
                self._add("cat", [source, other], None, (channels + self.shapes[other][0], side))
            case "chunk":
                first = (channels + 1) // 2
                self._add("chunk", [source], None, (first, side), (channels - first, side))
            case "split":
                first = 1 + b % (channels - 1)
                self._add("split", [source], [first, channels - first], (first, side), (channels - first, side))
            case "slice":
                place = 1 + b % (channels - 1)
                self._add("slice", [source], place, (place, side), (channels - place, side))
            case "max" | "avg" as kind_of_pool if side > 1:
                pad = b % 2
                pool: nn.Module = nn.MaxPool2d(2, 1, pad)
                if kind_of_pool == "avg":
                    pool = nn.AvgPool2d(2, 1, pad, count_include_pad=b % 3 == 0)
                self._layer(source, pool, channels, side - 1 + 2 * pad)
            case "pad_channels":
                counts = (b % 2, c % 3)
                self._add("pad_channels", [source], counts, (channels + sum(counts), side))
            case "shuffle" if channels % 2 == 0 and channels > 2:
                self._add("shuffle", [source], 2, (channels, side))
            case "gate":
                name = f"gate{len(self.network.gates)}"
                self.network.gates[name] = nn.Parameter(torch.zeros(channels, 1, 1))
                self._add("gate", [source], name, (channels, side))
            case "squeeze":
                pooled = self._add("pool_gate", [source], None, (channels, 1))
                gate = self._layer(self._conv(pooled, channels, 0, 0), nn.Sigmoid(), channels, 1)
                self._add("mul", [source, gate], None, (channels, side))
            case "scale":
                if not self.smooth:
                    self._add("scale", [source], 0.5 + b % 3, (channels, side))
            case "grow" if side < SIDE:
                self._add("grow", [source], side + 1, (channels, side + 1))
            case "pad":
                self._add("pad", [source], 0.0 if self.smooth else b % 2 * 0.5, (channels, side))
            case "again":
                fitting = [
                    name
                    for name, layer in self.network.layers.items()
                    if isinstance(layer, nn.Conv2d) and layer.in_channels == channels and layer.kernel_size == (1, 1)
                ]
                if fitting:
                    name = fitting[b % len(fitting)]
                    self._add("layer", [source], name, (self.network.layers[name].out_channels, side))
            case "transposed" if side < SIDE:
                layer = nn.ConvTranspose2d(channels, 1 + c % 4, 2, bias=b % 2 == 0)
                self._layer(source, layer, 1 + c % 4, side + 1)
            case "relu_in_place":
                self._add("relu_in_place", [source], None, (channels, side))
            case "pixels" if channels % 4 == 0 and side <= 3:
                self._layer(source, nn.PixelShuffle(2), channels // 4, side * 2)

    def _heads(self, steps: Sequence[Sequence[int]]) -> None:
        """One or two linear heads on the last results; what they do not need is taken out."""
        total = sum(sum(step) for step in steps)
        for place in sorted({len(self.shapes) - 1, max(1, len(self.shapes) - 2 - total % 3)}):
            channels, side = self.shapes[place]
            how = ["pool", "flatten", "pool", "reshape"][(total // 2 + place) % 4]
            width = channels if how == "pool" else channels * side * side
            head = self._add("head", [place], (how, width), (width, 1))
            self.network.outputs.append(self._layer(head, nn.Linear(width, 2, bias=total % 2 == 0), 2, 1))
        self._take_out_unused()

    def _take_out_unused(self) -> None:
        program, outputs = self.network.program, self.network.outputs
        results, first = [], 1  # numbers of each step's results
        for operation, _, _ in program:
            count = 2 if operation in ("chunk", "split", "slice") else 1
            results.append(range(first, first + count))
            first += count
        needed = set(outputs)
        kept = []
        for step, made in zip(reversed(program), reversed(results), strict=True):
            if needed.intersection(made):
                needed.update(step[1])
                kept.append((step, made))
        number = {0: 0}
        for _, made in reversed(kept):
            for old in made:
                number[old] = len(number)
        self.network.program = [
            (operation, [number[source] for source in sources], arguments)
            for (operation, sources, arguments), _ in reversed(kept)
        ]
        self.network.outputs = [number[output] for output in outputs]
        used = {arguments for operation, _, arguments in self.network.program if operation in ("layer", "gate")}
        for name in [name for name in self.network.layers if name not in used]:
            del self.network.layers[name]
        for name in [name for name in self.network.gates if name not in used]:
            del self.network.gates[name]


def random_network(steps: Sequence[Sequence[int]], seed: int) -> RandomNetwork:
    """A network of steps, float64, with random weights many of whose rows, columns, scales and gates are zero."""
    network = Builder(steps).network.double()
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    share = draw.choice([0.15, 0.3, 0.5])

    def some(count: int) -> Tensor:
        return torch.rand(count, generator=generator) < share

    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for layer in network.layers.values():
            if isinstance(layer, nn.BatchNorm2d):
                if layer.running_mean is not None:
                    layer.running_mean.normal_(generator=generator)
                    layer.running_var.uniform_(0.5, 2.0, generator=generator)
                if layer.weight is not None:
                    layer.weight[some(len(layer.weight))] = 0.0
                    if draw.random() < 0.7:
                        layer.bias[layer.weight == 0] *= draw.choice([0.0, 0.0, 1.0])
            elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                columns, rows = (0, 1) if isinstance(layer, nn.ConvTranspose2d) else (1, 0)
                layer.weight.mul_((layer.weight.shape[rows] / layer.weight.numel()) ** 0.5)
                last = isinstance(layer, nn.Linear)
                dead = some(layer.weight.shape[rows]) if not last and draw.random() < 0.7 else None
                if dead is not None:
                    layer.weight.index_fill_(rows, dead.nonzero().squeeze(1), 0.0)
                    if layer.bias is not None and draw.random() < 0.5:
                        layer.bias[dead] = 0.0
                if draw.random() < 0.5:
                    layer.weight.index_fill_(columns, some(layer.weight.shape[columns]).nonzero().squeeze(1), 0.0)
        for gate in network.gates.values():
            gate[some(len(gate))] = 0.0
    return network.eval()
