"""Passes the events of a task to experiment trackers, without schedulers and torch."""
