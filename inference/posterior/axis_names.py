"""Names of the dimensions of a parameter tensor."""

from __future__ import annotations

from bayesprune.models.language.tensor_prior import TensorPrior

NAMES = ("output", "input", "kernel_row", "kernel_column", "kernel_depth")


def axis_names(name: str, count: int) -> tuple[str, ...]:
    """Names of dimensions, a tensor's own so that tensors of several shapes share a data set.

    Args:
        name: Name of the tensor or the site.
        count: How many dimensions it has; those after the fifth are numbered, from 5.
    """
    return tuple(f"{name}.{NAMES[axis] if axis < len(NAMES) else axis}" for axis in range(count))


def dimensions(name: str, prior: TensorPrior) -> tuple[str, ...]:
    """Names of the dimensions of a tensor with a prior."""
    return axis_names(name, len(prior.shape))
