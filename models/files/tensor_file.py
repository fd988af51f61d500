"""Files of tensors (safetensors), with a digest that the JSON file beside them holds."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from bayesprune.models.files.json_file import damaged, read_regular

__all__ = ["not_finite", "read_tensors", "tensor_digest", "write_tensors"]


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> str:
    """Writes tensors with the permissions of the user's own files.

    Args:
        tensors: By name; tensors that share memory are written each.
        file: The file; one that is there is written over, so it should be a staged one.

    Returns:
        The digest of the file (`tensor_digest`).

    Raises:
        OSError: If it cannot be written.
    """
    stored = safetensors.torch.save(
        {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    )
    with file.open("wb") as stream:  # `save_file` would make it readable by its owner alone
        stream.write(stored)
    return tensor_digest(stored)


def read_tensors(file: Path, remedy: str, digest: str | None = None) -> dict[str, Tensor]:
    """Reads tensors, onto the CPU.

    Args:
        file: The file.
        remedy: What to do where it is damaged, the end of the message.
        digest: What `write_tensors` returned; default None: not compared (files of earlier versions, or of others).

    Raises:
        ValueError: If it is missing, no safetensors, not what was written, or holds NaN or infinity.
    """
    stored = read_regular(file, remedy)
    if digest is not None and tensor_digest(stored) != digest:
        raise damaged(file, "its content is not what was written", remedy)
    try:
        found = safetensors.torch.load(stored)
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError) as problem:
        raise damaged(file, problem, remedy) from problem
    wrong = not_finite(found)
    if wrong is not None:
        raise ValueError(f"{file} holds NaN or infinity in {wrong}: {remedy}")
    return found


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first tensor that holds NaN or infinity; None where there is none."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return name
    return None


def tensor_digest(stored: bytes) -> str:
    """Thirty-two hexadecimal digits of a file's content."""
    return blake2b(stored, digest_size=16).hexdigest()
