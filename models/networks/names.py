"""Names of the ready networks: the one list, which the command line's help reads without PyTorch."""

from __future__ import annotations

__all__ = ["NETWORK_NAMES"]

NETWORK_NAMES = (
    "lenet-300-100",
    "lenet-5",
    "vgg-16-bn",
    "resnet-18",
    "resnet-20",
    "resnet-32",
    "resnet-56",
    "resnet-18-imagenet",
    "resnet-34",
    "resnet-50",
    "resnet-34-cifar",
    "resnet-50-cifar",
    "mobilenet-v1",
    "mobilenet-v2",
    "fast-grnn",
    "gru",
    "lstm",
    "watts-strogatz",
    "barabasi-albert",
    "erdos-renyi",
    "rnn-tanh-stack",
    "rnn-relu-stack",
    "gru-stack",
    "lstm-stack",
    "linear",
)
"""Those of `bayesprune.models.ready_networks.NETWORKS`, in its order."""
