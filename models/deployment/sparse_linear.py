"""Sparse linear layer: a Linear layer that stores and multiplies only the weights, or blocks, that are not zero.

`nn.Linear` takes a sparse weight too, but multiplies by its transpose, which is several times slower for batches and
fails in inference mode; here the weight stands on the left.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SparseLinear"]

_INT32 = 2**31 - 1


class SparseLinear(nn.Module):
    """A linear layer with a weight in CSR or BSR, for inference.

    Its parts are plain buffers, so that it can be copied, moved, cast and saved as other layers are.

    Args:
        linear: The layer whose weight and bias it takes, copied.
        block: Rows and columns of a block for BSR, which have to divide the weight's; None (default) for CSR.

    Attributes:
        row_starts: Where each row, or row of blocks, begins in `columns`, `(rows + 1,)`, int32.
        columns: Column of each entry, or column of blocks, int32.
        values: The entries, `(entries,)`, or the blocks, `(blocks, rows of a block, columns of a block)`.
        bias: `(out,)` or None.
    """

    row_starts: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, block: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features, self.block = linear.in_features, linear.out_features, block
        dense = linear.weight.detach()
        with _beta():
            sparse = dense.to_sparse_csr() if block is None else dense.to_sparse_bsr(block)
        # The processor's library counts in int32 and converts other indices at every call.
        index = torch.int32 if max(dense.shape[1], sparse.col_indices().numel()) <= _INT32 else torch.int64
        self.register_buffer("row_starts", sparse.crow_indices().to(index))
        self.register_buffer("columns", sparse.col_indices().to(index))
        self.register_buffer("values", sparse.values().contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self._made: tuple[Tensor, Tensor] | None = None  # the weight, and the values it was made of
        self.train(linear.training)

    @property
    def weight(self) -> Tensor:
        """The weight as one sparse tensor, `(out, in)`; it shares the buffers' memory."""
        if self._made is None or self._made[1] is not self.values:
            layout = torch.sparse_csr if self.block is None else torch.sparse_bsr
            with torch.inference_mode(False), _beta():
                made = torch.sparse_compressed_tensor(
                    self.row_starts,
                    self.columns,
                    self.values,
                    (self.out_features, self.in_features),
                    layout=layout,
                    check_invariants=True,
                )
            self._made = made, self.values
        return self._made[0]

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(..., out)` for `(..., in)`."""
        rows = x.reshape(-1, self.in_features)
        if len(rows) == 1:  # a product with a vector is the quicker one
            product = (self.weight @ rows[0])[None]
            product = product if self.bias is None else product + self.bias
        elif self.bias is None:
            product = (self.weight @ rows.t()).t()
        else:
            product = torch.addmm(self.bias[:, None], self.weight, rows.t()).t()
        return product.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Sizes, layout and how many entries or blocks are stored."""
        stored = (
            f"{self.values.numel()} entries" if self.block is None else f"{len(self.values)} blocks of {self.block}"
        )
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, {stored}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # copies make their own: torch cannot copy sparse tensors


@contextmanager
def _beta() -> Iterator[None]:
    """Without torch's note that these layouts are in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR|BSR) tensor support is in beta", category=UserWarning)
        yield
