"""How the steps of a restart were executed, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["ExecutionReport"]


@dataclass
class ExecutionReport:
    """How the steps of a restart were executed, and why.

    Attributes:
        name: ``"plain"`` or ``"fused"``.
        reason: Why, in one sentence.
        compiled: Whether the graph was compiled.
        fused_steps: Steps that were fused.
        plain_steps: Steps that were plain; in the fused execution those with batches of another shape.
        compile_seconds: What tracing and compiling cost, as measured; 0 without.
        plain_ms: Milliseconds of loss and gradient in the plain execution, timed before the first step; 0 if not timed.
        fused_ms: Median milliseconds of a fused step; 0 if there was none.
        break_even: Steps after which compilation had paid for itself; 0 where it is not known.
        from_draw: Sites whose term is estimated from the draw, for want of a registered one.
        plain_tensors: Parameter tensors whose priors are evaluated outside the graph.
        graphs: Graphs that were traced: more than one where the model has changed and steps repaid it.
    """

    name: str = "plain"
    reason: str = ""
    compiled: bool = False
    fused_steps: int = 0
    plain_steps: int = 0
    compile_seconds: float = 0.0
    plain_ms: float = 0.0
    fused_ms: float = 0.0
    break_even: int = 0
    from_draw: list[str] = field(default_factory=list)
    plain_tensors: list[str] = field(default_factory=list)
    graphs: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The attributes, rounded, for a run's summary."""
        return {name: round(v, 3) if isinstance(v, float) else v for name, v in asdict(self).items()}

    def __str__(self) -> str:
        text = f"{self.name} execution: {self.reason}"
        if self.compiled:
            text += f"; compiled in {self.compile_seconds:.1f} s"
            if self.plain_ms and self.fused_ms:
                text += f", {self.fused_ms:.2f} ms a step, loss and gradient of the plain one {self.plain_ms:.2f} ms"
            if self.break_even:
                text += f", repaid after {self.break_even} steps"
        if self.graphs > 1:
            text += f"; {self.graphs} graphs of a model that changed, {self.fused_steps} steps fused"
        if self.from_draw:
            text += f"; estimated from the draw: {', '.join(self.from_draw)}"
        if self.plain_tensors:
            text += f"; outside the graph: {', '.join(self.plain_tensors)}"
        return text
