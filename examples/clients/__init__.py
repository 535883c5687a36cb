"""MNIST at several clients with the same columns: one model, averaged by rounds."""
