"""Implements the training loops of both roles, with joint batches, guards and dry runs."""
