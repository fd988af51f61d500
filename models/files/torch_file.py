"""State dicts that `torch.save` wrote, whatever they are called, read by PyTorch's restricted unpickler.

Such a file is a pickle. `torch.load(weights_only=True)` refuses whatever is not tensors and plain containers of them,
so that no code in it runs. It is read only where a user names one; nothing here is ever written in this form.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.models.files.json_file import damaged, read_regular

__all__ = ["is_of_torch", "read_torch_tensors"]

_SUFFIXES = (".pt", ".pth")
_ARCHIVE, _PICKLE = b"PK\x03\x04", b"\x80"
"""How files of `torch.save` begin, now and before PyTorch 1.6."""
_WITHIN = ("state_dict", "model", "model_state_dict")
"""Keys under which checkpoints of training loops have the state dict."""


def is_of_torch(file: Path) -> bool:
    """Whether a file is to be read as one of `torch.save`: by how it begins, else by what it is called.

    A safetensors file begins with the length of its header in eight bytes, the first of which may be that of a pickle,
    and then has a brace.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(9)
    except OSError:  # told when it is read in full
        start = b""
    if start.startswith(_ARCHIVE):
        return True
    if start[8:] == b"{":
        return False
    return start.startswith(_PICKLE) or file.suffix.lower() in _SUFFIXES


def read_torch_tensors(file: Path, remedy: str) -> dict[str, Tensor]:
    """Reads a state dict of tensors onto the CPU; no code that the file names is run.

    Args:
        file: The file: a state dict, or a mapping with one under ``state_dict``, ``model`` or ``model_state_dict``.
        remedy: What to do where it is none, the end of the message.

    Returns:
        The tensors by name; NaN and infinity are not looked for.

    Raises:
        ValueError: In one sentence, if it is missing, damaged, or holds anything but tensors by name.
    """
    stored = read_regular(file, remedy)
    _check_unpacked(stored, file, remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old forms of the file
            found = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        if not zipfile.is_zipfile(io.BytesIO(stored)) and b"torch" not in stored:
            raise damaged(file, "it is no file of torch.save", remedy) from problem
        raise ValueError(
            f"{file} holds more than tensors, such as a whole pickled network, or is damaged, and reading it could run "
            f"code, so that it is not read: {remedy}"
        ) from problem
    except Exception as problem:  # PyTorch raises errors of all kinds for damaged files
        raise damaged(file, "it is no whole file of torch.save", remedy) from problem
    state = _state_within(found)
    if state is None:
        raise ValueError(
            f"{file} holds no state dict, neither by itself nor under {', '.join(map(repr, _WITHIN))}: {remedy}"
        )
    return state


def _check_unpacked(stored: bytes, file: Path, remedy: str) -> None:
    """Refuses an archive that grows when it is read: `torch.save` never compresses."""
    if not zipfile.is_zipfile(io.BytesIO(stored)):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(stored)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except Exception as problem:
        raise damaged(file, "its archive cannot be read", remedy) from problem
    if size > len(stored):
        raise damaged(file, "its archive is compressed, which torch.save never does", remedy)


def _state_within(found: Any) -> dict[str, Tensor] | None:
    """The state dict that a file holds; None where there is none."""
    if not isinstance(found, Mapping):
        return None
    for one in (found, *(found.get(key) for key in _WITHIN)):
        if isinstance(one, Mapping) and one and all(type(name) is str and _is_plain(one[name]) for name in one):
            return {name: value.detach() for name, value in one.items()}
    return None


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor with numbers of its own, in rows."""
    if type(value) not in (Tensor, nn.Parameter):
        return False
    return value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"
