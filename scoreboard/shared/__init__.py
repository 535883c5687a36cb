"""What the parties of every system share: nets, data, and the joined model; for torch and NumPy."""
