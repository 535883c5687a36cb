"""Tensors of one party: batches, gradients, random streams, staleness. It knows no peer."""
