"""Weights of a trained network out of a file, `--weights FILE`: what of them fits a network, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from bayesprune.models.files.places import expanded
from bayesprune.models.files.tensor_file import infinite_buffers, not_finite, read_tensors
from bayesprune.models.files.torch_file import SUFFIXES, read_torch_tensors
from bayesprune.models.standardisation import put_in_units, units_of

__all__ = ["COLOURS", "StartingWeights"]

_WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before all names."""
_COUNTER = ".num_batches_tracked"
"""Counters of batch normalisation that files of old PyTorch versions lack."""
_REMEDY = "give trained weights that are finite, as safetensors"
_TORCH_REMEDY = "save the network's own by torch.save(network.state_dict(), FILE)"
COLOURS = 3
"""Channels of the images that trained networks usually take."""


@dataclass
class StartingWeights:
    """A file of trained weights; it is read once.

    Attributes:
        file: The file: safetensors; or `.pt` or `.pth`, read by PyTorch's restricted unpickler.
        new_head: Whether the last layer may have another number of outputs in the file, and then keeps the network's
            own random start; default False.
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

    def load_into(self, network: nn.Module) -> None:
        """Loads them into a network, in place.

        Names may begin with what DataParallel (``module.``) or torch.compile (``_orig_mod.``) puts before them.
        Counters of batch normalisation may be missing. Where the first convolution takes grey images, and the file's
        takes colours, its weights are summed over the colours, as if each grey image were repeated three times.

        Args:
            network: The network.

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
        head = _last_layer(network)
        if self.new_head:
            kept = {name: value for name, value in state.items() if not _is_of(name, head)}
            state = kept | {name: value for name, value in own.items() if _is_of(name, head)}
            notes.append(f"{head} began anew (--new-head); all else is that of {self.file.name}")
        self._check(network, own, state, head)
        network.load_state_dict(state)
        self.notes = tuple(notes)

    def _state(self, network: nn.Module) -> dict[str, Tensor]:
        if not self.file.is_file():
            raise ValueError(
                f"there is no file {self.file}: weights are read from a safetensors file, or one of torch.save "
                f"({' or '.join(SUFFIXES)})"
            )
        if self._read is None:
            if self.file.suffix.lower() in SUFFIXES:
                self._read = read_torch_tensors(self.file, _TORCH_REMEDY)
            else:
                self._read = read_tensors(self.file, _REMEDY, None, infinite_buffers(network))
        return dict(self._read)

    def _check(self, network: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], head: str) -> None:
        """Refuses what does not fit; names and shapes first, so that no number of a wrong size is looked at."""
        expected = {name: tuple(value.shape) for name, value in own.items()}
        found = {name: tuple(value.shape) for name, value in state.items()}
        wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
        if wrong:
            raise ValueError(
                f"{self.file} does not fit the network: {wrong[0]} has shape {found.get(wrong[0], 'none')} in the file "
                f"and {expected.get(wrong[0], 'none')} in the network ({len(wrong)} tensors differ)"
                f"{_what_to_do(wrong, expected, found, head)}"
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


def _named_alike(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state by the network's own names, where all of the file's have the same wrapper's name before them."""
    found = dict(state)
    for _ in _WRAPPERS:
        for wrapper in _WRAPPERS:
            is_wrapped = found and all(name.startswith(wrapper) for name in found)
            if is_wrapped and not all(name.startswith(wrapper) for name in own):
                found = {name.removeprefix(wrapper): value for name, value in found.items()}
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


def _last_layer(network: nn.Module) -> str:
    return [name for name, _ in network.named_parameters()][-1].rpartition(".")[0]


def _is_of(name: str, layer: str) -> bool:
    return name.rpartition(".")[0] == layer


def _what_to_do(
    wrong: list[str], expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], head: str
) -> str:
    """The end of the sentence on tensors that differ: what to do, where that can be told."""
    if all(_is_of(name, head) for name in wrong):
        return (
            f": only the last layer, {head}, differs, so give --new-head to start it anew and keep all else, or "
            "--network-set num_classes=N for as many outputs as the file has, where the network takes that"
        )
    if not any(name in found for name in expected if not name.endswith(_COUNTER)):
        return f": none of its names is the network's, which begin with {next(iter(expected))}"
    return ""
