"""Whether a weight is the same quantity in every fit: of a network without hidden units only."""

from __future__ import annotations

from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["identified_tensor"]


def identified_tensor(model: BayesianNetwork) -> str | None:
    """The one matrix of a model in which every weight joins an input to an output, and none a hidden unit.

    Hidden units may be permuted, and stand in for one another, so that the weights of two fits of a network are not the
    same quantities; those of a regression are.

    Args:
        model: The model.

    Returns:
        Its name; None where the network has several matrices or units with gates, or the matrix has no prior.
    """
    matrices = [name for name, value in model.network.named_parameters() if value.ndim >= 2]
    return matrices[0] if len(matrices) == 1 and matrices[0] in model.priors and model.gates is None else None
