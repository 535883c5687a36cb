"""Runs all parties of a task in one process: simulations, baselines and fake parties."""
