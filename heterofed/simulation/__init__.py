"""All parties of a task in one process: simulations, baselines, parties not there yet."""
