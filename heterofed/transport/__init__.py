"""Moves frames between parties: one contract (`base`), in memory and over ZeroMQ."""
