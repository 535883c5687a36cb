"""Implements PSI with RSA blind signatures: keys with their proofs, requester and signer."""
