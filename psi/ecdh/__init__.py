"""Implements PSI with an oblivious pseudorandom function (OPRF) over ristretto255."""
