"""Handles the tensors of one party: batches, gradients, random streams, staleness; no peers."""
