"""What deleting a weight, a unit or a set is predicted to cost, from derivatives of a gate on it."""
