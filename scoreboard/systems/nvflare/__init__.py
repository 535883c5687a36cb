"""NVIDIA FLARE, as its split-learning example has it, with server and sites as real processes."""
