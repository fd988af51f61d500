"""What watches a training: callbacks, the pruning trace, records and files of it."""
