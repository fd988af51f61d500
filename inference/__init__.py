"""Inference: guides, objectives, `fit`, the pruning trace and the pruning rules."""
