"""Recurrent networks over tokens: an embedding, recurrent layers one above the other, and a linear read-out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from bayesprune.models.networks.widths import require_positive, scaled
from bayesprune.models.structure.recurrent_layer import RecurrentLayer
from bayesprune.models.structure.token_sequences import at_last_token, checked_tokens

__all__ = ["RecurrentStack", "recurrent_stack"]

VOCABULARY, HIDDEN, LAYERS = 128, 50, 3  # of the networks by name, as Stier, Darji and Granitzer 2021 have them


class RecurrentStack(nn.Module):
    """Recurrent layers over tokens, which are looked up in an embedding; outputs are those after the last token.

    Sequences of unequal length go through one batch: zeros stand after the end of a shorter one, and change nothing.
    The matrices are ``layers.0.input.weight``, ``layers.0.recurrent.weight`` and so on, so that priors and pruning find
    all of a kind by ``"*.input.weight"`` (input to hidden) and ``"*.recurrent.weight"`` (hidden to hidden).

    Args:
        kind: Of the layers, one of `bayesprune.models.structure.recurrent_layer.KINDS`.
        classes: Number of outputs; default 2.
        vocabulary: Tokens that there are, with the padding, 0; default 128, the codes of ASCII.
        embedding: Width of the embedding; default 50.
        hidden: Hidden units of each layer; default (50, 50, 50).

    Attributes:
        embedding: The embedding, weight `(vocabulary, width)`.
        layers: The recurrent layers.
        head: The read-out, from the hidden units of the last layer.

    Raises:
        ValueError: If the kind is unknown, there is no layer, or a size is below 1.
    """

    def __init__(
        self,
        kind: str,
        classes: int = 2,
        vocabulary: int = VOCABULARY,
        embedding: int = HIDDEN,
        hidden: Sequence[int] = (HIDDEN,) * LAYERS,
    ) -> None:
        super().__init__()
        require_positive(classes=classes, vocabulary=vocabulary, embedding=embedding, layers=len(hidden))
        self.embedding = nn.Embedding(vocabulary, embedding)
        before = (embedding, *hidden[:-1])
        self.layers = nn.ModuleList(RecurrentLayer(kind, *sizes) for sizes in zip(before, hidden, strict=True))
        self.head = nn.Linear(hidden[-1], classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Outputs `(N, classes)` for tokens `(N, steps)`, 0 after the end of a sequence."""
        x = self.embedding(checked_tokens(tokens))
        for layer in self.layers:
            x = layer(x)
        return self.head(at_last_token(x, tokens))


def recurrent_stack(kind: str) -> Callable[[Sequence[int], int, float], RecurrentStack]:
    """The maker of networks by name: three layers of 50 hidden units over an embedding of 50, for tokens below 128.

    Args:
        kind: Of the layers.

    Returns:
        A function of `(input_shape, classes, width=1.0)`, where an input is `(steps,)`, and the width multiplies hidden
        units and embedding, which are rounded and at least 1.
    """

    def make(input_shape: Sequence[int], classes: int, width: float = 1.0) -> RecurrentStack:
        if len(input_shape) != 1:
            raise ValueError(
                f"a recurrent network over tokens got inputs of shape {tuple(input_shape)}, but it needs sequences of "
                "whole numbers (steps,): use gru or lstm, which read numbers (steps, features) and images"
            )
        (wide,) = scaled([HIDDEN], width)
        return RecurrentStack(kind, classes, VOCABULARY, wide, (wide,) * LAYERS)

    return make
