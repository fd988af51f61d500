"""How well predictions tell inputs of another distribution from those that a network was trained for."""

from __future__ import annotations

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bayesprune.inference.predictions.predictive import Prediction

__all__ = ["out_of_distribution_auroc", "uncertainty"]

MEASURES = ("confidence", "entropy", "disagreement")


def uncertainty(prediction: Prediction, by: str = "entropy") -> Tensor:
    """How uncertain the predicted class of each input is.

    Args:
        prediction: Of classes: its mean are probabilities `(n, classes)`.
        by: ``"confidence"``: 1 less the largest probability (Hendrycks & Gimpel 2017); ``"entropy"`` (default): that of
            the mean prediction, in nats, at most the logarithm of the number of classes; ``"disagreement"``: what of
            it is due to the weights, the mutual information of class and weights in nats, which one network has none
            of (Houlsby et al. 2011).

    Returns:
        One number an input, `(n,)`, float64.

    Raises:
        ValueError: If the measure is unknown, or these are no probabilities of classes.
    """
    if by not in MEASURES:
        raise ValueError(f"by= takes one of {', '.join(map(repr, MEASURES))}, not {by!r}")
    mean = prediction.mean.detach().double()
    if mean.ndim != 2 or not bool(((mean.sum(dim=1) - 1.0).abs() <= 1e-2).all()):
        raise ValueError(
            f"uncertainty is of probabilities (n, classes), not of predictions of shape {tuple(mean.shape)}: predict "
            "with a network whose likelihood is of classes"
        )
    if by == "confidence":
        return 1.0 - mean.max(dim=1).values
    entropy = torch.special.entr(mean).sum(dim=1)
    if by == "entropy":
        return entropy
    return entropy - torch.special.entr(prediction.draws.detach().double()).sum(dim=-1).mean(dim=0)


def out_of_distribution_auroc(inside: Prediction, outside: Prediction, by: str = "entropy") -> float:
    """Probability that an input of another distribution gets a more uncertain prediction than one of the own.

    The area under the receiver operating characteristic of `uncertainty` as a detector, by scikit-learn; ties count
    half.

    Args:
        inside: Predictions for inputs like those of the training, best held out.
        outside: Predictions, by the same network, for inputs of another kind.
        by: The measure; default ``"entropy"``.

    Returns:
        A number in [0, 1]; 1/2 tells nothing apart.

    Raises:
        ValueError: As `uncertainty`; or if one of the two is empty.
    """
    scores = [uncertainty(one, by) for one in (inside, outside)]
    if not all(len(each) for each in scores):
        raise ValueError("there is nothing to tell apart: give predictions for some inputs of both kinds")
    truth = torch.cat([torch.zeros(len(scores[0])), torch.ones(len(scores[1]))])
    return float(roc_auc_score(truth.numpy(), torch.cat(scores).cpu().numpy()))
