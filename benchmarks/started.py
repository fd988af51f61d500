"""Processes of a measurement, by PyTorch's own launcher."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def in_processes(function: Callable[..., dict[str, Any]], processes: int, *arguments: Any) -> dict[str, Any]:
    """What a function has found in the first of several processes, each of its own.

    Args:
        function: One at the top of a module.
        processes: How many.
        *arguments: Of the function.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
        monitor_interval=0.1,
    )
    found: dict[int, dict[str, Any]] = elastic_launch(config, function)(*arguments)
    return found[0]
