"""Losses of the papers: pure functions on tensors that return (sum, count)."""
