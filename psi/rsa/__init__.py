"""The protocol by RSA blind signatures: keys with their proofs, and the two roles."""
