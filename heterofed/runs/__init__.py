"""Manages one run of a task at one party: its lifecycle, settings, checkpoints and results."""
