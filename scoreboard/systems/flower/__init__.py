"""Flower, as its vertical example has it: the server, with the labels, asks for embeddings."""
