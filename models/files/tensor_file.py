"""Files of tensors (safetensors), with a digest that the JSON file beside them holds."""

from __future__ import annotations

from collections.abc import Container, Mapping
from hashlib import blake2b
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from bayesprune.models.files.json_file import damaged, read_regular
from bayesprune.models.files.unwritable import naming

__all__ = ["infinite_buffers", "not_finite", "read_tensors", "tensor_digest", "write_tensors"]


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> str:
    """Writes tensors with the permissions of the user's own files.

    Args:
        tensors: By name; tensors that share memory are written each.
        file: The file; one that is there is written over, so it should be a staged one.

    Returns:
        The digest of the file (`tensor_digest`).

    Raises:
        Unwritable: If it cannot be written.
    """
    stored = safetensors.torch.save(
        {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    )
    with naming(file), file.open("wb") as stream:  # `save_file` would make it readable by its owner alone
        stream.write(stored)
    return tensor_digest(stored)


def read_tensors(
    file: Path, remedy: str, digest: object = None, may_be_infinite: Container[str] | None = ()
) -> dict[str, Tensor]:
    """Reads tensors, onto the CPU.

    Args:
        file: The file.
        remedy: What to do where it is damaged, the end of the message.
        digest: What `write_tensors` returned; default None: not compared (files of earlier versions, or of others).
        may_be_infinite: Names of the tensors in which infinity is no damage (`infinite_buffers`); default none, None:
            any.

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
    wrong = not_finite(found, may_be_infinite)
    if wrong is not None:
        raise ValueError(f"{file} holds NaN or infinity in {wrong}: {remedy}")
    return found


def not_finite(tensors: Mapping[str, Tensor], may_be_infinite: Container[str] | None = ()) -> str | None:
    """The first tensor that holds NaN, or infinity where it may not; None where there is none.

    Args:
        tensors: By name.
        may_be_infinite: As in `read_tensors`.
    """
    for name, value in tensors.items():
        if not (value.is_floating_point() or value.is_complex()):
            continue
        value = value if value.itemsize > 1 else value.float()  # of one byte there is no isfinite
        infinite = may_be_infinite is None or name in may_be_infinite
        if bool(value.isnan().any() if infinite else (~value.isfinite()).any()):
            return name
    return None


def infinite_buffers(network: nn.Module, prefix: str = "") -> frozenset[str]:
    """Buffers in which infinity is no damage: all but running statistics, such as a mask of attention.

    Args:
        network: The network.
        prefix: What comes before the names; default nothing.
    """
    running = {id(buffer) for one in network.modules() if isinstance(one, _NormBase) for buffer in one.buffers()}
    return frozenset(f"{prefix}{name}" for name, buffer in network.named_buffers() if id(buffer) not in running)


def tensor_digest(stored: bytes) -> str:
    """Thirty-two hexadecimal digits of a file's content."""
    return blake2b(stored, digest_size=16).hexdigest()
