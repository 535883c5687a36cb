"""Hands the events of a task to trackers of experiments; knows no scheduler and no torch."""
