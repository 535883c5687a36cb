"""Keeps what an intersection needs on disk: ids, counts, keys and results."""
