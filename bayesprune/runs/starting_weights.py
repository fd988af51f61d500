"""Weights of a trained network out of a file, `--weights FILE`: what of them fits a network, and what is said of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from bayesprune.models.files.places import expanded
from bayesprune.models.files.tensor_file import infinite_buffers, not_finite, read_tensors
from bayesprune.models.files.torch_file import is_of_torch, read_torch_tensors
from bayesprune.models.networks.standardisation import put_in_units, units_of
from bayesprune.runs.new_heads import layer_of, named, output_layer, resized_layers

__all__ = ["COLOURS", "StartingWeights"]

_WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before all names."""
_COUNTER = ".num_batches_tracked"
"""Counters of batch normalisation that files of old PyTorch versions lack."""
_OF_OLD_DENSENETS = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")
"""Names in torchvision's files of DenseNet, `denselayer1.norm.1.weight`, of what is `denselayer1.norm1.weight` now."""
_REMEDY = "give trained weights that are finite, as safetensors"
_TORCH_REMEDY = "save the network's own by torch.save(network.state_dict(), FILE)"
COLOURS = 3
"""Channels of the images that trained networks usually take."""


@dataclass
class StartingWeights:
    """A file of trained weights; it is read once.

    Attributes:
        file: The file: safetensors; or of `torch.save`, read by PyTorch's restricted unpickler. Its first bytes tell
            which, and not its name.
        new_head: Whether the layers that have another number of outputs in the file keep the network's own random
            start; where none has, the layer that makes the outputs. Default False.
        notes: What was done to make them fit, in sentences; filled by `load_into`.
    """

    file: Path
    new_head: bool = False
    notes: tuple[str, ...] = ()
    _read: dict[str, Tensor] | None = field(default=None, repr=False)

    @staticmethod
    def of(weights: StartingWeights | str | Path) -> StartingWeights:
        """These weights, or those of a file."""
        return weights if isinstance(weights, StartingWeights) else StartingWeights(expanded(weights))

    def load_into(self, network: nn.Module, input_shape: tuple[int, ...] | None = None) -> None:
        """Loads them into a network, in place.

        Names may begin with what DataParallel (``module.``) or torch.compile (``_orig_mod.``) puts before them.
        Counters of batch normalisation may be missing. Where the first convolution takes grey images, and the file's
        takes colours, its weights are summed over the colours, as if each grey image were repeated three times.

        Args:
            network: The network.
            input_shape: Shape of one input, by which the layer that makes the outputs is found; default None: not
                known, so that `new_head` is refused where all shapes are the same.

        Raises:
            ValueError: In one sentence, if the file cannot be read or does not fit the network.
        """
        own = network.state_dict()
        state = _named_alike(self._state(network), own)
        if units_of(state) and not units_of(network):  # of a regression that was standardised inside
            try:
                put_in_units(network, units_of(state))
            except ValueError as problem:
                raise ValueError(f"{self.file} does not fit the network: {problem}") from problem
            own = network.state_dict()
        state = {name: own[name] for name in own if name.endswith(_COUNTER)} | state
        notes = []
        state, greyed = _for_grey_images(network, state)
        if greyed is not None:
            notes.append(
                f"{greyed} was summed over its three colours, as the images are grey: it does what it did to images "
                "with the grey in all three"
            )
        if self.new_head:
            fresh = self._fresh(network, own, state, input_shape)
            kept = {name: value for name, value in state.items() if layer_of(name) not in fresh}
            state = kept | {name: value for name, value in own.items() if layer_of(name) in fresh}
            notes.append(f"{named(fresh, own)} began anew (--new-head); all else is that of {self.file.name}")
        self._check(network, own, state, input_shape)
        network.load_state_dict(state)
        self.notes = tuple(notes)

    def _fresh(
        self,
        network: nn.Module,
        own: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        input_shape: tuple[int, ...] | None,
    ) -> tuple[str, ...]:
        """The layers that start anew; none where others differ, which is refused then."""
        resized, only_outputs = resized_layers(network, own, state, input_shape)
        if resized:
            return resized if only_outputs else ()
        head = output_layer(network, input_shape)
        if head is None:
            raise ValueError(
                f"--new-head starts the layer that makes the outputs anew, but all shapes in {self.file} are those of "
                "the network, and which layer makes its outputs cannot be told: leave it out"
            )
        return (head,)

    def _state(self, network: nn.Module) -> dict[str, Tensor]:
        if not self.file.is_file():
            raise ValueError(
                f"there is no file {self.file}: weights are read from a safetensors file, or one of torch.save"
            )
        if self._read is None:
            if is_of_torch(self.file):
                self._read = read_torch_tensors(self.file, _TORCH_REMEDY)
            else:
                self._read = read_tensors(self.file, _REMEDY, None, infinite_buffers(network))
        return dict(self._read)

    def _check(
        self,
        network: nn.Module,
        own: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        input_shape: tuple[int, ...] | None,
    ) -> None:
        """Refuses what does not fit; names and shapes first, so that no number of a wrong size is looked at."""
        expected = {name: tuple(value.shape) for name, value in own.items()}
        found = {name: tuple(value.shape) for name, value in state.items()}
        wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
        if wrong:
            raise ValueError(
                f"{self.file} does not fit the network: {wrong[0]} has shape {found.get(wrong[0], 'none')} in the file "
                f"and {expected.get(wrong[0], 'none')} in the network ({len(wrong)} tensors differ)"
                f"{_what_to_do(wrong, network, own, state, input_shape)}"
            )
        for name, value in own.items():
            if state[name].is_floating_point() != value.is_floating_point():
                raise ValueError(
                    f"{self.file} does not fit the network: {name} is of {state[name].dtype} in the file, but "
                    f"{value.dtype} is expected"
                )
        infinite = not_finite(state, infinite_buffers(network))
        if infinite is not None:
            raise ValueError(f"{self.file} holds NaN or infinity in {infinite}: give trained weights that are finite")
        cast = {n: state[n].to(value.dtype) for n, value in own.items() if state[n].dtype != value.dtype}
        too_large = not_finite(cast, infinite_buffers(network))
        if too_large is not None:
            dtype = own[too_large].dtype
            raise ValueError(
                f"{self.file} holds numbers in {too_large} beyond {torch.finfo(dtype).max:.3g}, the range of the "
                f"network's {str(dtype).removeprefix('torch.')}: give weights within it"
            )


def _named_alike(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state by the network's own names, where all of the file's have the same wrapper's name before them."""
    found = dict(state)
    for _ in _WRAPPERS:
        for wrapper in _WRAPPERS:
            is_wrapped = found and all(name.startswith(wrapper) for name in found)
            if is_wrapped and not all(name.startswith(wrapper) for name in own):
                found = {name.removeprefix(wrapper): value for name, value in found.items()}
    for name in [name for name in found if name not in own]:
        joined = _OF_OLD_DENSENETS.sub(r"\1\2", name)
        if joined in own and joined not in found:
            found[joined] = found.pop(name)
    return found


def _for_grey_images(network: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """The state with the first convolution's weights summed over colours, and its name, where that makes them fit."""
    first = next(((name, one) for name, one in network.named_modules() if isinstance(one, nn.Conv2d)), None)
    if first is None:
        return state, None
    key = f"{first[0]}.weight" if first[0] else "weight"
    weight, shape = state.get(key), tuple(first[1].weight.shape)
    if weight is None or tuple(weight.shape) != (shape[0], COLOURS, *shape[2:]) or shape[1] != 1:
        return state, None
    return {**state, key: weight.sum(dim=1, keepdim=True)}, key


def _what_to_do(
    wrong: list[str],
    network: nn.Module,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    input_shape: tuple[int, ...] | None,
) -> str:
    """The end of the sentence on tensors that differ: what to do, where that can be told."""
    if not any(name in state for name in own if not name.endswith(_COUNTER)):
        return f": none of its names is the network's, which begin with {next(iter(own))}"
    heads, only_outputs = resized_layers(network, own, state, input_shape)
    differ = {layer_of(name) for name in wrong}
    if not heads and len(differ) == 1:  # a file without a head
        heads = tuple(differ & {output_layer(network, input_shape)})
    if not only_outputs or differ != set(heads):
        return ""
    layers, verb = ("layer", "differs") if len(heads) == 1 else ("layers", "differ")
    return (
        f": only the last {layers}, {named(heads, own)}, {verb}, so give --new-head to start "
        f"{'it' if len(heads) == 1 else 'them'} anew and keep all else, or --network-set num_classes=N for as many "
        "outputs as the file has, where the network takes that"
    )
