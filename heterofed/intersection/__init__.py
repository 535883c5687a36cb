"""Runs the PSI phase over the protocol, at the Host and at a Collaborator, without torch."""
