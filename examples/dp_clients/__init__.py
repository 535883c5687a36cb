"""MNIST at two clients that train with differential privacy."""
