"""What reaches what through masks, by boolean matrices written out: independent of how the package runs networks.

A layer is a boolean matrix over positions, `(outputs, inputs)`: that of a convolution is unrolled entry by entry. The
Jacobian of a network with smooth activations is non-zero, but for weights of measure zero, exactly where their boolean
product is.
"""

from __future__ import annotations

import numpy as np


def unrolled(mask, height, width, stride=1, padding=0):
    """The matrix of a convolution, `(out * rows * columns, in * height * width)`, and which weight each entry is of.

    Args:
        mask: `(out, in, kernel height, kernel width)`.
        height, width: Of its inputs.

    Returns:
        The boolean matrix; an integer one of the number of the weight at each entry, -1 where there is none; and the
        height and width of its outputs.
    """
    mask = np.asarray(mask)
    out, inputs, tall, wide = mask.shape
    rows, columns = (height + 2 * padding - tall) // stride + 1, (width + 2 * padding - wide) // stride + 1
    numbers = np.arange(mask.size).reshape(mask.shape)
    which = np.full((out, rows, columns, inputs, height, width), -1)
    for row in range(rows):
        for column in range(columns):
            for i in range(tall):
                for j in range(wide):
                    y, x = row * stride + i - padding, column * stride + j - padding
                    if 0 <= y < height and 0 <= x < width:
                        which[:, row, column, :, y, x] = numbers[:, :, i, j]
    which = which.reshape(out * rows * columns, inputs * height * width)
    return (which >= 0) & mask.ravel()[which], which, rows, columns


def reached(matrices):
    """The boolean product of matrices, first layer first: which input reaches which output, `(outputs, inputs)`."""
    found = np.eye(matrices[0].shape[1], dtype=bool)
    for matrix in matrices:
        found = (matrix.astype(int) @ found.astype(int)) > 0
    return found


def on_paths(matrices):
    """The entries of each matrix that lie on a path from an input to an output, boolean, of its shape."""
    forward = [np.ones(matrices[0].shape[1], dtype=bool)]
    for matrix in matrices:
        forward.append((matrix & forward[-1]).any(1))
    backward = [np.ones(matrices[-1].shape[0], dtype=bool)]
    for matrix in reversed(matrices):
        backward.insert(0, (matrix & backward[0][:, None]).any(0))
    return [matrix & forward[n] & backward[n + 1][:, None] for n, matrix in enumerate(matrices)]


def weights_on_paths(entries, which, mask):
    """The weights of a convolution any of whose entries lies on a path, of the shape of its mask."""
    found = np.zeros(np.asarray(mask).size, dtype=bool)
    found[which[entries]] = True
    return found.reshape(np.asarray(mask).shape)
