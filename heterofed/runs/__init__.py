"""One run of a task at one party: its life, settings, checkpoints, and what it leaves behind."""
