"""How good predictions are: accuracy, negative log-likelihood, Brier score and calibration.

All take predictive probabilities `(N, classes)` (for a Bayesian network: averaged over draws) and
labels `(N,)`, compute in float64 whatever the dtype of the input, and return a Python float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bayesprune.models.likelihoods.likelihood import Likelihood

__all__ = [
    "accuracy",
    "are_of_classes",
    "averaged_nll",
    "averaged_scores",
    "brier_score",
    "expected_calibration_error",
    "negative_log_likelihood",
]

_SUM_TOLERANCE = 1e-2  # wide enough for probabilities that were averaged in bfloat16


def _checked(probabilities: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities in float64 and labels in int64, or one sentence on what is wrong with them."""
    if probabilities.ndim != 2:
        raise ValueError(
            f"probabilities have shape {tuple(probabilities.shape)}, but (N, classes) is expected: "
            "average over draws first"
        )
    if y.shape != probabilities.shape[:1]:
        raise ValueError(
            f"labels have shape {tuple(y.shape)} for probabilities of shape {tuple(probabilities.shape)}, "
            f"but ({probabilities.shape[0]},) is expected: pass one label per row"
        )
    if probabilities.shape[0] == 0:
        raise ValueError("there are no examples to score: pass at least one row of probabilities")
    if y.is_floating_point() or y.is_complex():
        raise ValueError(f"labels have dtype {y.dtype}, but integers are expected: pass class numbers")
    probabilities, y = probabilities.detach().double(), y.detach().to(probabilities.device).long()
    classes = probabilities.shape[1]
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(
            f"labels run from {int(y.min())} to {int(y.max())}, but the probabilities have {classes} "
            f"classes: labels must lie in 0..{classes - 1}"
        )
    off = (probabilities.sum(dim=1) - 1).abs()
    # written so that a NaN fails too
    if not bool((probabilities >= 0).all() & (off <= _SUM_TOLERANCE).all()):
        raise ValueError(
            "probabilities are negative, NaN or do not sum to 1 in each row: "
            "pass probabilities, for example the softmax of logits"
        )
    return probabilities, y


def are_of_classes(likelihood: Likelihood, mean: Tensor, y: Tensor) -> bool:
    """Whether predictions are probabilities `(N, classes)` of labels `(N,)`, which can be calibrated.

    Args:
        likelihood: What made the predictions.
        mean: The predictions.
        y: The observations.
    """
    return likelihood.is_labels and mean.ndim == 2 and y.shape == mean.shape[:1] and not y.is_floating_point()


def averaged_nll(densities: Sequence[Tensor]) -> float:
    """Mean negative log-likelihood of the prediction averaged over draws, in nats an example.

    Args:
        densities: Log densities of the examples at each draw, `(n,)` each; of one network, its own.
    """
    return -float((torch.logsumexp(torch.stack(list(densities)), dim=0) - math.log(len(densities))).mean())


def averaged_scores(likelihood: Likelihood, mean: Tensor, densities: Sequence[Tensor], y: Tensor) -> dict[str, float]:
    """Scores of a prediction averaged over draws: those of the likelihood, nll, and for classes ece.

    Args:
        likelihood: What made the predictions.
        mean: The prediction averaged over draws, `(n, ...)`.
        densities: As for `averaged_nll`.
        y: The observations.
    """
    scores = {**likelihood.scores(mean, y.cpu()), "nll": averaged_nll(densities)}
    if are_of_classes(likelihood, mean, y):
        scores["ece"] = expected_calibration_error(mean, y.cpu())
    return scores


def accuracy(probabilities: Tensor, y: Tensor) -> float:
    """Fraction of examples whose most probable class is the label; the first class wins a tie.

    Args:
        probabilities: Predictive probabilities `(N, classes)`, rows summing to 1.
        y: Integer labels `(N,)` in 0..classes-1.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: If shapes, dtypes or ranges do not fit.
    """
    probabilities, y = _checked(probabilities, y)
    return float((probabilities.argmax(dim=1) == y).double().mean())


def negative_log_likelihood(probabilities: Tensor, y: Tensor) -> float:
    """Mean of `-log p(label)`, in nats per example.

    A probability that has underflowed to 0 counts as the smallest normal number of the input's dtype (87.3
    nats in float32), so that one example cannot make the mean infinite.

    Args:
        probabilities: Predictive probabilities `(N, classes)`, rows summing to 1.
        y: Integer labels `(N,)` in 0..classes-1.

    Returns:
        Nats per example, at least 0 up to rounding.

    Raises:
        ValueError: If shapes, dtypes or ranges do not fit.
    """
    smallest = torch.finfo(probabilities.dtype).tiny if probabilities.is_floating_point() else 0.0
    probabilities, y = _checked(probabilities, y)
    smallest = smallest or torch.finfo(torch.float64).tiny
    return float(-probabilities.gather(1, y[:, None]).clamp(min=smallest).log().mean())


def brier_score(probabilities: Tensor, y: Tensor) -> float:
    """Mean squared distance of the probabilities from the label, summed over classes (Brier 1950).

    Args:
        probabilities: Predictive probabilities `(N, classes)`, rows summing to 1.
        y: Integer labels `(N,)` in 0..classes-1.

    Returns:
        A number in [0, 2]; lower is better. Uniform probabilities of C classes have 1 - 1 / C.

    Raises:
        ValueError: If shapes, dtypes or ranges do not fit.
    """
    probabilities, y = _checked(probabilities, y)
    truth = torch.nn.functional.one_hot(y, probabilities.shape[1])
    return float((probabilities - truth).square().sum(dim=1).mean())


def expected_calibration_error(probabilities: Tensor, y: Tensor, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy, over equal-width bins of confidence.

    Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017, equation 3: with
    bins `((m - 1) / bins, m / bins]`, the sum over bins of their share of examples times
    `|accuracy - mean confidence|`, where confidence is the largest probability of a row.

    Args:
        probabilities: Predictive probabilities `(N, classes)`, rows summing to 1.
        y: Integer labels `(N,)` in 0..classes-1.
        bins: Number of bins.

    Returns:
        A number in [0, 1]; 0 is calibrated.

    Raises:
        ValueError: If shapes, dtypes or ranges do not fit, or `bins` is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}, but at least 1 is expected: 15 is usual")
    probabilities, y = _checked(probabilities, y)
    confidence, predicted = probabilities.max(dim=1)
    correct = (predicted == y).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)[1:-1]
    member = torch.bucketize(confidence, edges)  # right-closed bins: edge i - 1 < confidence <= edge i
    # In one bin the shares cancel: (n / N) * |sum(correct) / n - sum(confidence) / n|.
    gap = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gap = gap.scatter_add(0, member, correct - confidence)
    return float(gap.abs().sum() / y.shape[0])
